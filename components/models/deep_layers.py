"""The layers of a denoiser in three parts: shallow ones, deep ones, and those after them. A view may skip the deep."""

from collections.abc import Callable
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from torch import Tensor


class Stream(Protocol):
    """The values between two layers of one forward: a named tuple. x: the picture's tokens or features, rows first."""

    @property
    def x(self) -> Tensor:
        """The tokens `b n c` or features `b c h w` of the picture."""
        ...

    def _replace(self, *, x: Tensor) -> Self: ...


S = TypeVar("S", bound=Stream)
TokenChange = Callable[[Tensor], Tensor]
"""A change of a tensor whose second dimension is tokens."""


class LayeredDenoiser(Generic[S]):
    """Base of denoisers whose deep layers can be skipped. depth: the number of shallow layers before them.

    The layers after the deep ones read of their results `x` alone, and else what was there before them.
    """

    deep_adds: ClassVar[bool] = True
    """Whether the deep layers add to `x`; in a U-Net, `x` has other channels after them."""

    def run_layers(self, stream: S) -> S:
        """Run all layers between the embeddings and the last norm. A view may override it."""
        return self.after_deep(self.run_deep(self.before_deep(stream, 0), 0), 0)

    def before_deep(self, stream: S, depth: int) -> S:
        """Run the first `depth` layers."""
        raise NotImplementedError(f"{type(self).__name__} needs a method before_deep.")

    def run_deep(self, stream: S, depth: int) -> S:
        """Run the deep layers."""
        raise NotImplementedError(f"{type(self).__name__} needs a method run_deep.")

    def after_deep(self, stream: S, depth: int) -> S:
        """Run the layers after the deep ones. In a transformer there are none."""
        return stream

    def modulated(self, stream: S) -> Tensor | None:
        """Return the modulated input of the first block, `b n c`; None for a model without modulation."""
        return None

    def map_tokens(self, stream: S, picture: TokenChange, prompt: TokenChange) -> S:
        """Return the stream with all tensors changed that the layers read token by token. Others stay whole.

        picture: the change for tokens of the picture. prompt: for those of the prompt, where they are in the stream.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method map_tokens.")

    def deep_blocks(self, depth: int) -> list[str]:
        """Return the paths of the transformer blocks among the deep layers."""
        raise NotImplementedError(f"{type(self).__name__} needs a method deep_blocks.")
