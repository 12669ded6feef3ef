"""The protocol of what is trained. The trainer knows nothing else about it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from ...graph.graph import Graph
from ..adapters.layouts import Layout

NO_BINDINGS: Mapping[str, Any] = MappingProxyType({})
NO_HEADER: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters that have one learning rate.

    name: the component that they change ("unet", "text_encoder"); several groups may have one name. parameters: at
    least one. lr_factor: multiplies the learning rate of the name (LoRA+).
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr_factor: float = 1.0


class Trained(nn.Module, ABC):
    """What a training changes. Its parameters are the trainable ones, in float32, and only these.

    `state_dict()` is what checkpoints and averages of weights (EMA) need.
    """

    suffix: str = ".safetensors"
    """The end of the path to which it is saved; "" for a folder."""

    @property
    def is_called(self) -> bool:
        """Whether a recipe calls its modules themselves, and does not read their parameters from outside."""
        return False

    @abstractmethod
    def bindings(self, over: Mapping[str, Any] = NO_BINDINGS) -> Mapping[str, Any]:
        """Return by name what a recipe binds in place of components: views, models or lazy components.

        over: what other parts of the training bind. They take the place of the preset's components.
        """

    @abstractmethod
    def groups(self) -> Sequence[ParameterGroup]:
        """Return all parameters, each in one group, in an order that does not change."""

    @abstractmethod
    def attached(self, pipe: Graph) -> Graph:
        """Return the preset with what is trained so far: what a user gets from the saved file."""

    @abstractmethod
    def save(self, path: str | Path, *, layout: Layout | None = None, header: Mapping[str, str] = NO_HEADER) -> Path:
        """Write what is trained. The file or folder appears whole or not at all.

        Args:
            path: it ends with `suffix`.
            layout: the names in the file, for adapters; None for the one that `attached` uses.
            header: further entries of the file's header; see `headers.training_header`.

        Raises:
            SaveError: a path that cannot be written, or a layout that cannot express what is trained.
        """

    @abstractmethod
    def load(self, path: str | Path) -> Any:
        """Read what `save` wrote: the adapter, embedding or models that a user gets.

        Raises:
            LoadError: no such file, or a damaged one.
        """

    def use_layout(self, layout: Layout) -> None:
        """Take the names of a layout for its file, from the start of the training. Adapters alone have layouts.

        Raises:
            ConfigError: the layout cannot express what is trained.
        """

    def after_step(self) -> None:
        """Do what follows each step of the optimizer."""
