"""A method of training: the recipe, and what it trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...components.training.trained import Trained
from ...graph import Graph


def _no_data(_folder: Path) -> Sequence[Any]:
    return ()


@dataclass(frozen=True, eq=False)
class Method:
    """A method for one preset.

    recipe: the graph of a training step, bound to the components of the preset. trained: what it trains, whose
    `bindings()` the trainer puts in their place. draws_with: inputs of the preset with which sample pictures are drawn
    where a call has none: a consistency model is drawn in 4 steps. more_data: makes further sources of data, such as
    pictures of a class; it gets the folder of the training's output.
    """

    recipe: Graph
    trained: Trained
    draws_with: Mapping[str, Any] = field(default_factory=dict[str, Any])  # Any: inputs of the preset
    more_data: Callable[[Path], Sequence[Any]] = _no_data  # Any: whatever load_data takes

    @property
    def needs(self) -> tuple[str, ...]:
        """The inputs that the data must have."""
        return tuple(name for name, port in self.recipe.inputs.items() if port.required and name != "random")
