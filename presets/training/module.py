"""A recipe as a module of torch, which accelerate wraps for devices, precision and processes."""

from functools import cached_property
from typing import Any

from torch import nn

from ...components.training.checkpointing import checkpointed
from ...components.training.trained import Trained
from ...graph import ConfigError, Graph, gradients
from ...registry import did_you_mean


class RecipeModule(nn.Module):
    """The recipe, and as its only submodule what is trained. So no component is wrapped, moved or saved.

    Args:
        recipe: a graph with the output `loss`, and `losses` of each row where it has them.
        trained: what is trained.
        carries_random: whether the states of `random` after the batch are needed.
        checkpointing: whether layers are computed again in the backward pass.
    """

    def __init__(
        self, recipe: Graph, trained: Trained, *, carries_random: bool = False, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.trained = trained
        outputs = ["loss", *(["losses"] if "losses" in recipe.outputs else []), *(["random"] if carries_random else [])]
        for name in outputs:
            if name not in recipe.outputs:
                raise ConfigError(f"recipe: needs the output {name!r}. {did_you_mean(name, recipe.outputs)}")
        self._recipe = recipe.bind(**trained.bindings()).only(*outputs)
        self._checkpointing = checkpointing
        self.inputs = tuple(name for name in self._recipe.inputs if name != "random")
        """The names of the inputs that data gives."""

    @cached_property
    def _running(self) -> Graph:
        """The recipe that runs. Its views are made at the first forward, because FSDP changes modules before it."""
        if not self._checkpointing:
            return self._recipe
        bound = self._recipe.bindings
        return self._recipe.bind({name: checkpointed(bound[name]) for name in self._recipe.components})

    def forward(self, **inputs: Any) -> dict[str, Any]:  # Any: values of the recipe
        """The outputs of the recipe, with gradients unless torch records none."""
        with gradients():
            return dict(self._running(**inputs))
