"""`sf.train`: from a method, data and a model to an adapter, an embedding or a model."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...components.training.trained import Trained
from ...graph import ConfigError, Graph
from ...graph.memo import Memo, memo
from ..load import load
from ..records.keys import component_key
from .batches import Batches
from .card import write_card
from .data import TrainingData, freeze
from .devices import make_accelerator
from .events import TrainingEvent
from .header import header_of
from .method import Method
from .methods import make_method, settings_of
from .namespaces import Divided, check_prior, divided, read_data, read_validation
from .plan import TrainingPlan, measure
from .record import read_record, warn_of_changes, write_record
from .trainer import Trainer


@dataclass(frozen=True)
class Training:
    """A training that is ready to run."""

    method: str
    model: str
    recipe: Graph
    """The whole recipe; the trainer runs its part that is not frozen."""
    pipe: Graph
    trained: Trained
    trainer: Trainer
    draws_with: Mapping[str, Any]
    """Inputs of the preset with which it draws what is trained."""
    frozen: tuple[str, ...]
    """The nodes of the recipe whose values are computed once for each sample."""
    data: TrainingData
    values: Divided


def train(
    method: str | Method | Graph,
    *,
    data: Any,  # whatever load_data takes
    model: str | Path | Graph = "emoji",
    output: str | Path,
    validation: Any = None,  # whatever load_data takes
    name: str | None = None,
    layout: Any = None,
    cache: bool | str | Path = True,
    model_options: Mapping[str, Any] | None = None,
    on_event: Callable[[TrainingEvent], None] | None = None,
    **settings: Any,
) -> Any:
    """Train, and give the adapter, the embedding or the model, as it is loaded from the saved file.

    Args:
        method: the name of a method ("lora", "dreambooth", "embedding" …); a `Method`; or a recipe, to train a LoRA.
        data: a folder, a file, a repo of datasets, rows, sources, or what `sf.load_data` gives.
        model: a preset, a folder, a repo or a file, as `sf.load` takes it; or a loaded preset.
        output: the folder for the result, its card, checkpoints, sample pictures and logs.
        validation: pictures for the validation loss, as `data`.
        name: the name of the result's file or folder; by default that of the method.
        layout: the names of tensors in an adapter's file: "peft", "kohya", "comfy" or "lycoris".
        cache: whether values that training does not change, such as latents and encoded prompts, are computed once for
            each sample. A folder keeps them for later trainings.
        model_options: further arguments of `sf.load`, such as `{"quantization": {"unet": "nf4"}}`.
        on_event: gets each event. Without it, a terminal shows a progress bar.
        settings: those of `TrainingSettings`, of the method, and of `sf.load_data`, by name.

    Raises:
        ConfigError: unknown settings, or values that do not fit. It lists all of them.
        LoadError: data, a model or a checkpoint that cannot be read.
        NotFinite: a loss that is NaN or infinite; names the samples and the last checkpoint.
        KeyboardInterrupt: Ctrl-C was pressed; a checkpoint is saved before. `resume="auto"` goes on from it.
    """
    folder = Path(output)
    training = prepare(method, data, model, folder, validation, cache, model_options or {}, settings)
    if layout is not None:
        training.trained.use_layout(layout)
    trainer, main = training.trainer, training.trainer.accelerator.is_main_process
    if main:
        given = {"name": name, "layout": layout, "cache": cache, "model_options": model_options, **settings}
        if trainer.step:
            warn_of_changes(folder, given, settings_of(training.method) if isinstance(method, str) else ())
        write_record(folder, {"method": method, "data": data, "model": model, "validation": validation}, given)
    began = time.time()
    trainer.run(on_event)
    file = folder / f"{name or training.method}{training.trained.suffix}"
    trainer.save_trained(file, layout=layout, header=header_of(trainer, training.data, training.values, began))
    pictures = trainer.sample(training.pipe, folder / "samples" / "final")
    found = training.trained.load(file)
    if main:
        write_card(
            folder, method=training.method, model=training.model, file=file, trained=found, recipe=training.recipe,
            settings=settings, samples=pictures, draws_with=training.draws_with,
        )  # fmt: skip
    return found


def resume_training(
    folder: str | Path, *, on_event: Callable[[TrainingEvent], None] | None = None, **changes: Any
) -> Any:
    """Go on with a training that `train` began in a folder, from its newest checkpoint. Gives what `train` gives.

    Args:
        folder: the output folder.
        on_event: as for `train`.
        changes: other values of its arguments and settings, such as `steps=2000`, which also takes the place of
            `epochs`.

    Raises:
        LoadError: no training was started there.
        ConfigError: the training was started with objects of Python, which no file has.
    """
    length = {"steps", "epochs"}
    before = {n: v for n, v in read_record(folder).items() if n not in length or changes.keys().isdisjoint(length)}
    arguments: dict[str, Any] = {**before, "resume": "auto", **changes}
    return train(**arguments, output=folder, on_event=on_event)


def plan_training(
    method: str | Method | Graph,
    *,
    data: Any,  # whatever load_data takes
    model: str | Path | Graph = "emoji",
    output: str | Path | None = None,
    cache: bool | str | Path = True,
    model_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> TrainingPlan:
    """Say what a training would do and need, from two steps that are made and thrown away. Nothing is saved.

    It takes the arguments of `train`. The folder `output` is not read or written, unless a method draws pictures of a
    class there. Raises as `train`.
    """
    ignored = ("validation", "validate_every", "name", "layout", "on_event", "resume")
    kept = {name: value for name, value in settings.items() if name not in ignored}
    training = prepare(method, data, model, Path(output or "."), None, cache, model_options or {}, kept, saves=False)
    return measure(training.trainer, len(training.data), training.frozen)


# ------------------------------------------------------------------------------------------------ making ready
def prepare(
    method: str | Method | Graph,
    data: Any,  # whatever load_data takes
    model: str | Path | Graph,
    output: Path,
    validation: Any,  # whatever load_data takes
    cache: bool | str | Path,
    model_options: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    saves: bool = True,
) -> Training:
    """Make a training of the arguments of `train`; see there. saves: whether it writes into the output folder."""
    name = method if isinstance(method, str) else "lora"
    parts = divided(settings, {} if isinstance(method, Method) else settings_of(name, objective=name is method))
    accelerator = make_accelerator(parts.training, output if saves else None)
    options: dict[str, Any] = {"device": str(accelerator.device), **model_options}
    pipe = model if isinstance(model, Graph) else load(model, **options)
    made = method if isinstance(method, Method) else make_method(name, pipe, parts.method)
    if isinstance(method, Graph):
        made = replace(made, recipe=_bound(method, made.trained, pipe))
    with accelerator.main_process_first():
        more = made.more_data(output)
    read = read_data(data, list(more), parts, pipe)
    check_prior(read, made.recipe)
    frozen = freeze(made.recipe, tuple(made.trained.bindings()), _memo(cache)) if cache is not False else None

    def batches_of(pictures: TrainingData, *, shuffle: bool = True) -> Batches:
        batches = pictures.batches(
            parts.training.batch_size, recipe=made.recipe, seed=parts.training.seed, shuffle=shuffle
        )
        return batches if frozen is None else frozen.batches(batches)

    calls = tuple({**made.draws_with, **call} for call in parts.training.samples)
    trainer = Trainer(
        made.recipe if frozen is None else frozen.recipe,
        made.trained,
        batches_of(read),
        replace(parts.training, samples=calls),
        output=output if saves else None,
        pipe=pipe,
        validation=None if validation is None else batches_of(read_validation(validation, parts, pipe), shuffle=False),
        accelerator=accelerator,
    )
    return Training(
        method=name if not isinstance(method, Method) else "training",
        model=str(model) if not isinstance(model, Graph) else "",
        recipe=made.recipe,
        pipe=pipe,
        trained=made.trained,
        trainer=trainer,
        draws_with=made.draws_with,
        frozen=() if frozen is None or frozen.graph is None else tuple(frozen.graph.nodes),
        data=read,
        values=parts,
    )


def _bound(recipe: Graph, trained: Trained, pipe: Graph) -> Graph:
    """A recipe with the components of a preset where it has none. ConfigError if it has others that are trained."""
    both = {n: (recipe.bindings[n], pipe.bindings[n]) for n in trained.bindings() if n in recipe.bindings}
    others = [n for n, (own, bound) in both.items() if own is not bound and component_key(own) != component_key(bound)]
    if others:
        raise ConfigError(
            f"The recipe is bound to another {', '.join(others)} than the model. Make it of the preset that is passed: "
            "sf.train(recipe(pipe), model=pipe, …)."
        )
    own = {n: component for n, component in pipe.bindings.items() if n in recipe.components}
    return recipe.with_bindings({**own, **recipe.bindings})


def _memo(cache: bool | str | Path) -> Memo:
    return memo() if isinstance(cache, bool) else memo(cache)
