"""Events of a run: a class for each kind, so that programs match on types."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..registry import codecs


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run. The path is that of its node ("denoise.guider")."""

    path: str


@dataclass(frozen=True, slots=True)
class BlockStarted(Event):
    """A block starts: its components are loaded, and it is called next."""


@dataclass(frozen=True, slots=True)
class BlockFinished(Event):
    """A block has finished. seconds: the time of its call. bytes: the size of the tensors in its outputs."""

    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class BlockReused(Event):
    """The outputs of a node are those of an earlier run, from the memo. seconds: the time that they took then."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ComponentLoaded(Event):
    """A component was loaded for a block. name: of the component in the graph. seconds: the time of the load."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TurnFinished(Event):
    """A turn of a loop or a map has finished: the first of `turns` is turn 1. The path is that of the loop.

    values: what the next turn begins with; of a map, the lists of results so far.
    """

    turn: int
    turns: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepFinished(TurnFinished):
    """A step of denoising has finished: a turn of a loop that carries latents. latents: those that it has made."""

    latents: Any
    _clean: Callable[[], Any] | None = field(repr=False, compare=False)
    _components: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def clean(self) -> Any:
        """The model's estimate of the clean latents; `latents` where no block makes one. Computed when it is read."""
        return self.latents if self._clean is None else self._clean()

    def preview(self, vae: Any = None) -> list[Any]:
        """Pictures of the clean latents, as PIL images, one for each row, at the size of the result.

        Without `vae`, a tiny autoencoder decodes them, if the graph has one; else each latent pixel becomes a pixel by
        the matrix of its family, blurred to the full size. Nothing of it is computed before this call.

        Args:
            vae: an autoencoder for these latents, such as `sf.load_component("madebyollin/taesdxl")`.

        Raises:
            ConfigError: there is no matrix for this latent space.
        """
        return codecs["preview"](self.clean, self._components, vae)


@dataclass(frozen=True, slots=True)
class Note(Event):
    """A text for the user, such as the words that were cut from a long prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The run has finished: its last event. The path is "". outputs: the result, as `run.outputs`."""

    outputs: Mapping[str, Any]


Events = Generator[Event, None, dict[str, Any]]
"""Events of a part of a run, and its outputs at the end."""
