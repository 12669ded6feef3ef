"""Train whole models, or parts of them, as copies in float32."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ...graph.errors import ConfigError
from ...graph.fields import Lazy
from ...graph.graph import Graph
from ...graph.saving import saving_folder
from ...graph.structure import Structure
from ...registry import did_you_mean
from ..adapters.layouts import Layout
from ..models.base import Model
from .paths import names_text, nested
from .trained import NO_BINDINGS, NO_HEADER, ParameterGroup, Trained


class TrainedWhole(Trained):
    """Copies of models in training; `train_whole` makes it.

    Its modules have the names of the components: `unet.conv_in.weight`. Of a model that is trained in parts, only these
    parts are its modules.
    """

    suffix = ""

    @property
    def is_called(self) -> bool:
        """True: the models are bound as they are."""
        return True

    def __init__(self, models: Mapping[str, Model[Any]], parts: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.models = dict(models)  # no modules of this one: a model may have parts that are not trained
        for component, model in models.items():
            chosen = {path: model.get_submodule(path) for path in parts[component]}
            model.requires_grad_(False)
            for part in chosen.values():
                part.requires_grad_(True)
            self.add_module(component, model if "" in chosen else nested(chosen))

    def bindings(self, over: Mapping[str, Any] = NO_BINDINGS) -> Mapping[str, Any]:
        """The models in training; see `Trained.bindings`."""
        if both := [component for component in self.models if component in over]:
            raise ConfigError(f"Another part of the training changes {names_text(both)}. Train it in one part.")
        return dict(self.models)

    def groups(self) -> Sequence[ParameterGroup]:
        """One group for each component; see `Trained.groups`."""
        return [
            ParameterGroup(component, tuple(self.get_submodule(component).parameters())) for component in self.models
        ]

    def attached(self, pipe: Graph) -> Graph:
        """The preset with the models in training themselves: further steps change them; see `Trained.attached`."""
        return pipe.bind(self.models)

    def save(self, path: str | Path, *, layout: Layout | None = None, header: Mapping[str, str] = NO_HEADER) -> Path:
        """Write each model to the folder of its name, as `save_pretrained` does; see `Trained.save`.

        layout and header: for adapters alone; `config.json` has no place for them.
        """
        with saving_folder(path) as draft:
            for component, model in self.models.items():
                model.save_pretrained(draft.path / component)
        return Path(path)

    def load(self, path: str | Path) -> Mapping[str, Model[Any]]:
        """The saved models by component, for `pipe.bind(models)`; see `Trained.load`."""
        return {name: type(model).from_pretrained(Path(path, name)) for name, model in self.models.items()}


def train_whole(
    pipe: Structure, components: Sequence[str], *, parts: Mapping[str, Sequence[str]] | None = None
) -> TrainedWhole:
    """Train all weights of components, or those of their parts.

    A component is copied in float32, and the copy is trained: "mixed precision" is a matter of the trainer.

    Args:
        pipe: the graph. Its components are loaded, and do not change.
        components: names of models.
        parts: paths of modules, by component: `{"vae": ("decoder", "post_quant_conv")}`. All of a model by default.

    Raises:
        ConfigError: no such component, a quantized one, or no such part.
    """
    models: dict[str, Model[Any]] = {}
    chosen = {component: tuple((parts or {}).get(component, ("",))) for component in components}
    if lost := [component for component in parts or {} if component not in chosen]:
        raise ConfigError(f"parts: {names_text(lost)} is not trained. Name it in components=.")
    for component in components:
        bound = pipe.bindings.get(component)
        model = bound.load() if isinstance(bound, Lazy) else bound
        if not isinstance(model, Model):
            known = [n for n, v in pipe.bindings.items() if isinstance(v, Model) or _is_model(v)]
            raise ConfigError(f"components: the graph has no model {component!r}. {did_you_mean(component, known)}")
        if model.quantization is not None:
            raise ConfigError(
                f"components: {component} is quantized, and packed weights cannot be trained. Load it without "
                "quantization, or train an adapter."
            )
        copied: Model[Any] = copy.deepcopy(model).float()
        for path in chosen[component]:
            _check_part(copied, component, path)
        models[component] = copied
    return TrainedWhole(models, chosen)


def _is_model(bound: object) -> bool:
    return isinstance(bound, Lazy) and isinstance(bound.type, type) and issubclass(bound.type, Model)


def _check_part(model: nn.Module, component: str, path: str) -> None:
    """ConfigError for a path at which the model has no module."""
    names = dict(model.named_modules())
    if path not in names:
        near = did_you_mean(path, (name for name in names if name and name.count(".") <= path.count(".")))
        raise ConfigError(f"parts: {component} has no module {path!r}. {near}")
