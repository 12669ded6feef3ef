"""A recipe as a module of torch, which accelerate wraps for devices, precision and processes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from ...graph import ConfigError, Graph, gradients
from ...registry import did_you_mean
from .optimizers import ParameterGroup


class Trainable(Protocol):
    """What the trainer needs of what is trained: a module whose parameters are the trainable ones, and only these."""

    def bindings(self) -> Mapping[str, Any]:  # Any: models and views
        """The components that the recipe gets, by name."""
        ...

    def groups(self) -> Sequence[ParameterGroup]:
        """All parameters, in groups with a learning rate each."""
        ...

    def attached(self, pipe: Graph) -> Graph:
        """The preset with what has been trained so far."""
        ...

    def save(self, path: Path, *, header: Mapping[str, str] = ...) -> Path:
        """Save it in the form that users load, whole or not at all."""
        ...

    def after_step(self) -> None:
        """What follows a step of the optimizer."""
        ...


class RecipeModule(nn.Module):
    """The recipe, and as its only submodule what is trained. So no component is wrapped, moved or saved.

    Args:
        recipe: a graph with the output `loss`, and `losses` of each row where it has them.
        trained: an `nn.Module` that is `Trainable`.
        carries_random: whether the states of `random` after the batch are needed.
    """

    def __init__(self, recipe: Graph, trained: Any, *, carries_random: bool = False) -> None:
        super().__init__()
        self.trained = trained
        outputs = ["loss", *(["losses"] if "losses" in recipe.outputs else []), *(["random"] if carries_random else [])]
        for name in outputs:
            if name not in recipe.outputs:
                raise ConfigError(f"recipe: needs the output {name!r}. {did_you_mean(name, recipe.outputs)}")
        self._recipe = recipe.bind(**trained.bindings()).only(*outputs)

    def forward(self, **inputs: Any) -> dict[str, Any]:  # Any: values of the recipe
        """The outputs of the recipe, with gradients unless torch records none."""
        with gradients():
            return dict(self._recipe(**inputs))
