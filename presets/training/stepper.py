"""`Stepper`: adds the gradients of batches, and makes steps of the optimizer from them."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import inf, isfinite
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...components.random import Random
from ...components.training.trained import Trained
from ...graph import Graph, NotFinite
from ...registry import printable
from .batches import Batch, Position, Turn
from .checkpoint import bytes_of, moved
from .draws import generator_states, kept_generators, row_seeds, seed_generators, set_generator_states
from .ema import EMA, own_weights_after, weights_in
from .events import StepFinished
from .lr_schedules import make_lr_schedule
from .module import RecipeModule
from .optimizers import make_optimizer
from .settings import TrainingSettings
from .sharding import (
    as_part,
    discard_gathered,
    freed_after_forward,
    gather,
    is_sharded,
    mark_forwards,
    optimizer_parts,
    own_part,
    part_of,
    prepare_sharding,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


_alone = RLock()
"""Generators and the flags of accelerate are of the process: one training at a time changes them, in any thread."""


@dataclass(frozen=True)
class _Added:
    """A batch of the present step whose gradient was added."""

    names: list[str]
    share: float
    loss: Tensor
    losses: Tensor
    """Of each row, where the recipe has them; else the loss."""

    @property
    def broken(self) -> list[str]:
        """The names of the rows whose loss is NaN or infinite."""
        finite = self.losses.isfinite().expand(len(self.names)).tolist()
        return [name for name, is_finite in zip(self.names, finite, strict=True) if self.share and not is_finite]


class Stepper:
    """What a training changes: weights, gradients, optimizer, moving average and random numbers, and its position.

    Args:
        recipe: the graph whose output is the loss.
        trained: what is trained.
        settings: those of the training.
        accelerator: of accelerate.
        steps: those of the whole training.
    """

    def __init__(
        self, recipe: Graph, trained: Trained, settings: TrainingSettings, accelerator: "Accelerator", steps: int
    ) -> None:
        self.trained, self._settings, self._accelerator = trained, settings, accelerator
        groups = trained.groups()
        self.is_sharded = is_sharded(accelerator)
        """Whether each process has a part of what is trained."""
        optimizer = make_optimizer(
            settings.optimizer, groups, settings.learning_rate, settings.learning_rates, sharded=self.is_sharded
        )
        self._rates = [(group["name"], group["lr"]) for group in optimizer.param_groups]
        self._factor = make_lr_schedule(settings.lr_schedule, steps, settings.warmup)
        sequential = settings.draws == "sequential"
        self._random = Random.seeded([settings.seed + accelerator.process_index]) if sequential else None
        module = RecipeModule(recipe, trained, carries_random=sequential, checkpointing=settings.gradient_checkpointing)
        prepare_sharding(accelerator, trained)
        self._module, self._optimizer = accelerator.prepare(module, optimizer)
        if self.is_sharded:
            mark_forwards(self._module)
        self._parameters = [parameter for group in trained.groups() for parameter in group.parameters]
        self._ema = EMA.of(settings.ema)
        self._average = [p.detach().clone() for p in self._parameters] if self._ema else []
        self.position = Position()
        """How far the training is."""
        self._added = list[_Added]()
        self._began = 0.0
        self._generators = dict[str, Any]()

    @contextmanager
    def training(self) -> Generator[None]:
        """The state in which steps are made: the modes of modules, and generators of this training."""
        if not self._generators:
            with _alone, kept_generators():
                seed_generators(self._settings.seed + self._accelerator.process_index)
                self._generators = generator_states()
        self._set_mode(training=True)
        yield

    @contextmanager
    def _own_generators(self) -> Generator[None]:
        """Let dropout draw from the generators of this training. At the end those of the process are as before."""
        with _alone, kept_generators():
            set_generator_states(self._generators)
            yield
            self._generators = generator_states()

    # ------------------------------------------------------------------------------------------------ steps
    def add(self, turn: Turn, inputs: Mapping[str, Any]) -> None:  # Any: the inputs of the recipe
        """Add the gradient of a batch. The gradient of a step is the mean over the rows of all its batches."""
        if not self._added:
            self._began = time.perf_counter()
        random = self._random or self._row_random(turn.position.epoch, turn.batch)
        with self._own_generators():
            self._accelerator.sync_gradients = turn.last
            # Sharded gradients are summed in their parts: so they need little memory, and a checkpoint has them.
            with nullcontext() if turn.last or self.is_sharded else self._accelerator.no_sync(self._module):
                outputs = self._outputs(inputs, random)
                # torch takes the mean over processes, and the mean over rows is needed.
                self._accelerator.backward(outputs["loss"] * (turn.share * self._accelerator.num_processes))
        if self._random is not None:
            self._random = outputs["random"]
        loss = outputs["loss"].detach()
        self._added.append(_Added(list(turn.batch.names), turn.share, loss, outputs.get("losses", loss).detach()))
        if not turn.last:
            self.position = turn.after

    def _outputs(self, inputs: Mapping[str, Any], random: Random) -> dict[str, Any]:
        """The outputs of the recipe."""
        with self._accelerator.autocast() if self.is_sharded else nullcontext():  # else the module has it in itself
            return self._module(**moved(dict(inputs), self._accelerator.device), random=random)

    def finish(self, turn: Turn) -> StepFinished:
        """Make the step after its last batch.

        Raises:
            NotFinite: a loss or a gradient that is NaN or infinite. The weights are those before the step.
        """
        loss = self.summed(sum(float(added.loss) * added.share for added in self._added if added.share))
        if not isfinite(loss):
            raise self._not_finite("loss", loss)
        factor = self._factor(self.position.step)
        for group, (_, rate) in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        norm = float(self._clipped())
        if not isfinite(norm) and self._accelerator.scaler is None:  # a scaler leaves out such a step
            raise self._not_finite("gradient", norm)
        with self._own_generators():
            self._accelerator.sync_gradients = True
            self._optimizer.step()
            self._optimizer.zero_grad()
        self.trained.after_step()
        if self._ema:
            self._ema.update(self._average, self._parameters, turn.after.step)
        self._added.clear()
        self.position = turn.after
        rates = {name: rate * factor for name, rate in self._rates}
        seconds = time.perf_counter() - self._began
        return StepFinished(turn.after.step, turn.after.epoch, loss, rates, norm, seconds)

    def _clipped(self) -> Tensor | float:
        """Clip the gradients, and return their norm before that; 0 where a library below clips them itself."""
        parameters = self._module.parameters() if self.is_sharded else self._parameters  # accelerate finds FSDP by them
        norm = self._accelerator.clip_grad_norm_(parameters, self._settings.max_gradient_norm or inf)
        return norm if isinstance(norm, Tensor) else 0.0

    @property
    def learning_rates(self) -> dict[str, float]:
        """The full learning rate of each group, by name."""
        return dict(self._rates)

    def summed(self, number: float) -> float:
        """The sum of a number over all processes."""
        if self._accelerator.num_processes == 1:
            return number
        tensor = torch.tensor(number, dtype=torch.float64, device=self._accelerator.device)
        total: Any = self._accelerator.reduce(tensor, "sum")
        return float(total)

    def _not_finite(self, what: str, value: float) -> NotFinite:
        broken = [name for added in self._added for name in added.broken]
        names = broken or [name for added in self._added for name in added.names if added.share]
        shown = _shown(self._gathered(names))
        return NotFinite(f"Step {self.position.step + 1}: the {what} is {value} for the samples {shown}.")

    def _gathered(self, names: list[str]) -> list[str]:
        """The names of all processes, each once."""
        if self._accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            names = gather_object(names)
        return list(dict.fromkeys(names))

    def _row_random(self, epoch: int | str, batch: Batch) -> Random:
        return Random.seeded(row_seeds(self._settings.seed, epoch, batch.places))

    # ------------------------------------------------------------------------------------------------ weights in use
    @contextmanager
    def weights_in_use(self) -> Generator[None]:
        """The weights with which pictures are drawn: the moving average, or the optimizer's, or the present ones.

        At the end all is as before, to the bit: weights, modes and generators.
        """
        switches = not self._ema and hasattr(self._optimizer.optimizer, "eval")  # optimizers without a schedule
        weights = nullcontext()
        if self._ema:
            weights = weights_in(self._parameters, self._average)
        elif switches:
            weights = own_weights_after(self._parameters)
        with _alone, kept_generators(), weights, freed_after_forward(self._module, self._accelerator):
            self._set_mode(training=False, optimizer=switches)
            try:
                yield
            finally:
                self._set_mode(training=True, optimizer=switches)
                discard_gathered(self._module)

    @torch.no_grad()
    def loss_on(self, batches: Sequence[Batch]) -> float:
        """The mean loss over the rows of all batches, with the weights in use and the same noise each time.

        The processes divide the batches. Where weights are sharded, each runs as many, because they gather weights.

        Raises:
            NotFinite: a loss that is NaN or infinite.
        """
        processes, process = self._accelerator.num_processes, self._accelerator.process_index
        own = batches[process::processes]
        total = rows = 0.0
        broken = list[str]()
        with self.weights_in_use():
            for batch in own:
                loss = float(self._outputs(batch.load(), self._row_random("validation", batch))["loss"])
                if not isfinite(loss):
                    broken += batch.names
                total += loss * len(batch.names)
                rows += len(batch.names)
            if self.is_sharded and len(own) * processes < len(batches):
                self._outputs(batches[0].load(), self._row_random("validation", batches[0]))
        mean = self.summed(total) / self.summed(rows)
        if not isfinite(mean):
            names = _shown(self._gathered(broken))
            raise NotFinite(f"Step {self.position.step}: the validation loss is {mean} for the samples {names}.")
        return mean

    def _set_mode(self, *, training: bool, optimizer: bool = True) -> None:
        self._module.train(training)
        if optimizer:
            (self._optimizer.train if training else self._optimizer.eval)()

    # ------------------------------------------------------------------------------------------------ state
    def parts(self) -> dict[str, Any]:
        """The parts of a checkpoint that all processes share, by name. All processes call it, and the first has all."""
        parts = {"trained": self.trained.state_dict(), "optimizer": self._optimizer.state_dict()}
        if self._accelerator.scaler is not None:
            parts["scaler"] = self._accelerator.scaler.state_dict()
        parts |= {"ema": self._average} if self._ema else {}
        return gather(parts, keep=self._accelerator.is_main_process)

    def process_part(self) -> dict[str, Any]:
        """The part of a checkpoint of this process: its generators, and the unfinished step."""
        return {
            "generators": self._generators or generator_states(),
            "random": self._random and list(self._random.states),
            "added": [[added.names, added.share, added.loss, added.losses] for added in self._added],
            "gradients": [own_part(p.grad) for p in self._parameters] if self._added else [],
        }

    def sizes(self) -> dict[str, int]:
        """The bytes of what is trained, of its gradients, of the optimizer and of the moving average."""
        weights = bytes_of(self._parameters)
        optimizer = bytes_of(self._optimizer.state_dict())
        return {"trained": weights, "gradients": weights, "optimizer": optimizer, "ema": bytes_of(self._average)}

    def restore(self, position: Position, parts: Mapping[str, Any], process: Mapping[str, Any]) -> None:
        """Set the state to that of a checkpoint."""
        self.position = position
        trained = moved(parts["trained"], self._accelerator.device)
        own = self.trained.state_dict()
        self.trained.load_state_dict({name: part_of(tensor, own[name]) for name, tensor in trained.items()})
        self._optimizer.load_state_dict(optimizer_parts(parts["optimizer"], self._optimizer))
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(parts["scaler"])
        for average, saved in zip(self._average, parts.get("ema", ()), strict=True):
            average.copy_(part_of(saved, average))
        self._generators = dict(process["generators"])
        if self._random is not None:
            self._random = Random(tuple(process["random"]), self._random.noise)
        self._added = [_Added(*moved(added, self._accelerator.device)) for added in process["added"]]
        gradients = process["gradients"] or [None] * len(self._parameters)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = as_part(moved(gradient, parameter.device), parameter)


def _shown(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(map(printable, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
