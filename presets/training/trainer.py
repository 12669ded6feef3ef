"""`Trainer`: runs a recipe on batches, and changes what is trained. It knows nothing of families and methods."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...components.training.trained import Trained
from ...graph import ConfigError, Graph, NotFinite
from ...registry.progress import ProgressBar
from .batches import Batches, Order, Position, Turn, loaded
from .checkpoint import Checkpoint, best_of, checkpoints_in, place_of, remove_old, write_checkpoint
from .devices import make_accelerator, tracking
from .events import BatchFinished, CheckpointSaved, Sampled, StepFinished, TrainingEvent, Validated
from .interrupts import Interrupts
from .resuming import check_no_later, check_resumable, check_trained, find_checkpoint, plain_settings
from .samples import draw_samples
from .settings import TrainingSettings, raise_problems
from .sharding import whole_weights
from .stepper import Stepper

if TYPE_CHECKING:
    from accelerate import Accelerator


class Trainer:
    """A training. `run` does all of it, and `stream` hands out what happens.

    Args:
        recipe: a graph with the output `loss`: the mean over its rows; `losses` of each row where it has them.
        trained: what is trained.
        batches: the data.
        settings: how it runs.
        output: the folder for checkpoints, sample pictures and logs. Without one nothing is saved.
        pipe: the preset that draws sample pictures.
        validation: data for the validation loss, which is measured at the end, and where `validate_every` says so. Its
            epoch 0 is used, with the same noise each time.
        accelerator: one of accelerate; by default one is made of the settings, on the device of what is trained.

    Raises:
        ConfigError: settings that do not fit what is trained, the data or this machine.
        LoadError: a checkpoint that cannot be resumed.
    """

    def __init__(
        self,
        recipe: Graph,
        trained: Trained,
        batches: Batches,
        settings: TrainingSettings | None = None,
        *,
        output: str | Path | None = None,
        pipe: Graph | None = None,
        validation: Batches | None = None,
        accelerator: "Accelerator | None" = None,
    ) -> None:
        self.settings = settings = settings or TrainingSettings()
        self.output = Path(output) if output is not None else None
        self.trained, self._pipe, self._validation = trained, pipe, validation
        self.accelerator = accelerator or make_accelerator(settings, self.output, _device_of(trained))
        self.order = Order(
            batches, settings.accumulation, self.accelerator.num_processes, self.accelerator.process_index
        )
        self.steps = self.order.steps_of(settings.epochs) if settings.epochs else settings.steps or 1000
        """The steps of the whole training."""
        self._check(settings)
        self.stepper = Stepper(recipe, trained, settings, self.accelerator, self.steps)
        self._saved: Checkpoint | None = None
        self._best: float | None = None
        self._validated: tuple[int, float] | None = None  # the step and its loss
        self._resume()

    @property
    def step(self) -> int:
        """The finished steps."""
        return self.stepper.position.step

    # ------------------------------------------------------------------------------------------------ the whole
    def run(self, on_event: Callable[[TrainingEvent], None] | None = None) -> None:
        """Train to the end, with a progress bar in a terminal.

        Args:
            on_event: gets each event. With it no bar is shown.

        Raises:
            NotFinite: a loss or a gradient that is NaN or infinite, or a validation loss. It names the samples and the
                last checkpoint.
            SaveError: a checkpoint cannot be written.
            KeyboardInterrupt: Ctrl-C was pressed; a checkpoint is saved before.
        """
        with ProgressBar() if on_event is None else nullcontext() as bar:
            for event in self.stream():
                if on_event is not None:
                    on_event(event)
                if bar is not None and isinstance(event, StepFinished):
                    speed = f"loss {event.loss:.4f}  {event.seconds:.2f} s/step"
                    bar.stage("training", event.step, self.steps, speed)

    def stream(self) -> Generator[TrainingEvent]:
        """Train to the end, and hand out what happens. Raises as `run`."""
        with ExitStack() as stack:
            stack.enter_context(self.stepper.training())
            stack.enter_context(tracking(self.accelerator, self.output))
            interrupts = stack.enter_context(Interrupts())
            turns = loaded(self.order.turns(self.stepper.position))
            stack.callback(turns.close)
            while self.step < self.steps:
                turn, inputs = next(turns)
                self.stepper.add(turn, inputs)
                if turn.last:
                    yield from self._finish(turn)
                else:
                    yield BatchFinished(turn.position.step, turn.after.batch)
                if self._stopped(interrupts, turn):
                    yield from self._save_present()
                    raise KeyboardInterrupt(self._interrupted())
            yield from self._save_present()

    def _finish(self, turn: Turn) -> Iterator[TrainingEvent]:
        """Make the step, and what follows it at certain steps."""
        try:
            finished = self.stepper.finish(turn)
        except NotFinite as error:
            raise NotFinite(f"{error} {self._advice()}") from None
        yield finished
        rates = {f"learning_rate/{name}": rate for name, rate in finished.learning_rates.items()}
        self._log({"loss": finished.loss, "gradient_norm": finished.gradient_norm, "epoch": finished.epoch, **rates})
        settings = self.settings
        if self._is_due(settings.sample_every) and self._pipe is not None and self.output is not None:
            drawn = self.sample(self._pipe, self.output / "samples" / f"step-{self.step:08d}")
            yield Sampled(self.step, tuple(drawn))
        best = False
        if self._validation is not None and (self._is_due(settings.validate_every) or self.step == self.steps):
            try:
                validated = self.validate(self._validation)
            except NotFinite as error:
                raise NotFinite(f"{error} {self._advice()}") from None
            best = validated.best
            yield validated
        if self._is_due(settings.save_every) or best:
            yield from self._save_present()

    def _check(self, settings: TrainingSettings) -> None:
        problems = list[str]()
        if settings.warmup >= self.steps:
            problems.append(
                f"warmup needs fewer steps than the whole training, which has {self.steps}, got {settings.warmup}. "
                "Lower it, or pass more steps."
            )
        if settings.validate_every is not None and self._validation is None:
            problems.append("validate_every needs data for the validation. Pass validation=.")
        raise_problems("the settings of a training", problems)

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _stopped(self, interrupts: Interrupts, turn: Turn) -> bool:
        """Whether a process got Ctrl-C. Several agree on it at the end of a step."""
        if self.accelerator.num_processes == 1:
            return interrupts.noted
        return turn.last and self.stepper.summed(interrupts.noted) > 0

    def _interrupted(self) -> str:
        where = f' Its checkpoint is {self._saved.folder}. resume="auto" goes on from there.' if self._saved else ""
        return f"The training was interrupted after {self.step} of {self.steps} steps.{where}"

    def _advice(self) -> str:
        saved = (
            f"The last checkpoint is {self._saved.folder}" if self._saved else "No checkpoint was saved (save_every=)"
        )
        return f"{saved}. Look at these samples, or lower the learning rate, and train again."

    # ------------------------------------------------------------------------------------------------ at certain steps
    def validate(self, batches: Batches) -> Validated:
        """Measure the loss on data, with the weights in use and the same noise each time."""
        loss = self.stepper.loss_on(batches.epoch(0))
        self._log({"validation_loss": loss})
        best = self._best is None or loss < self._best
        self._best = loss if best else self._best
        self._validated = (self.step, loss)
        return Validated(self.step, loss, best)

    def sample(self, pipe: Graph, folder: Path) -> Mapping[Path, str]:
        """Draw the sample pictures of the settings with a preset, and save them. Gives the files with their prompts.

        All processes call it, and the first saves. The pictures are what the preset draws with the saved file, to the
        bit.
        """
        files: Mapping[Path, str] = {}
        main = self.accelerator.is_main_process
        if self.settings.samples and (main or self.stepper.is_sharded):  # parts of a model are gathered by all
            with self.stepper.weights_in_use(), whole_weights(self.trained):
                files = draw_samples(self.trained.attached(pipe), self.settings.samples, folder if main else None)
        self.accelerator.wait_for_everyone()
        return files

    def save_trained(self, path: str | Path, **options: Any) -> Path:  # Any: those of Trained.save
        """Save what is trained in the form that users load, with the weights in use. Gives its path.

        All processes call it, and the first saves.
        """
        with self.stepper.weights_in_use(), whole_weights(self.trained):
            if self.accelerator.is_main_process:
                self.trained.save(Path(path), **options)
        self.accelerator.wait_for_everyone()
        return Path(path)

    # ------------------------------------------------------------------------------------------------ checkpoints
    def save(self) -> Checkpoint:
        """Save a checkpoint at the present position, and remove old ones. All processes call it.

        Raises:
            SaveError: it cannot be written. The older ones are unchanged.
        """
        folder, position = self._checkpoints, self.stepper.position
        if folder is None:
            raise ConfigError("A checkpoint needs an output folder. Pass output=.")
        processes = _gathered(self.accelerator, self.stepper.process_part())
        validated = self._validated[1] if self._validated and self._validated[0] == self.step else None
        facts = {**self._facts(position), "validation_loss": validated}
        self._saved = Checkpoint(place_of(folder, position), position, plain_settings(self.settings), facts)
        parts = self.stepper.parts()
        if self.accelerator.is_main_process:
            numbered = {f"process-{number}": part for number, part in enumerate(processes)}
            write_checkpoint(self._saved, {**parts, **numbered})
            remove_old(folder, self.settings.keep, position)
        self.accelerator.wait_for_everyone()
        return self._saved

    def _save_present(self) -> Iterator[TrainingEvent]:
        """Save, unless there is no folder or it is saved already."""
        if self.output is not None and (self._saved is None or self._saved.position != self.stepper.position):
            yield CheckpointSaved(self.step, self.save().folder)

    @property
    def _checkpoints(self) -> Path | None:
        return self.output / "checkpoints" if self.output is not None else None

    def _facts(self, position: Position) -> dict[str, int]:
        batches = len(self.order.epoch(position.epoch))
        return {"processes": self.accelerator.num_processes, "batches": batches}

    def _resume(self) -> None:
        found = find_checkpoint(self.settings.resume, self._checkpoints, self.accelerator.process_index)
        if found is not None:
            self._saved, parts, process = found
            check_resumable(self._saved, self.settings, self._facts(self._saved.position))
            check_trained(self._saved, self.trained.state_dict(), parts["trained"])
            self.stepper.restore(self._saved.position, parts, process)
            best = best_of(checkpoints_in(self._saved.folder.parent))
            self._best = best and best.validation_loss
        if self.settings.resume != "auto" and self._checkpoints is not None:
            check_no_later(self._checkpoints, self.stepper.position)

    def _log(self, values: dict[str, float]) -> None:
        self.accelerator.log(values, step=self.step)


def _device_of(trained: Trained) -> str | None:
    return next((str(parameter.device) for parameter in trained.parameters()), None)


def _gathered(accelerator: "Accelerator", value: Any) -> list[Any]:  # a part of a checkpoint
    """The values of all processes."""
    if accelerator.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])
