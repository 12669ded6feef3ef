"""What prompts become: one class for each family of denoisers."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What a prompt became, one row an image.

    Each family of denoisers reads a subclass of its own, with what it needs beside the tokens; a graph in which one
    family's conditioning meets another's denoiser is refused. A port of this class takes and gives any family, the
    same on all its sides. tokens: (rows, tokens, width).
    """

    __family__: ClassVar[bool] = True

    tokens: Float[Tensor, "rows tokens width"]

    @property
    def rows(self) -> int:
        return len(self.tokens)

    @property
    def row_shape(self) -> Hashable:
        """What must be equal for two to be joined: the class, and the shape of a row of each tensor."""
        return type(self), tuple((name, t.shape[1:]) for name, t in self._tensors.items())

    def __getitem__(self, rows: slice) -> Self:
        """Some of the rows."""
        return replace(self, **{name: t[rows] for name, t in self._tensors.items()})

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(self, **{name: t.to(device) for name, t in self._tensors.items()})

    def expand(self, prompts: int, each: int) -> Self:
        """`each` rows for each of `prompts` prompts, beside each other; a single row serves all prompts."""
        grown = {n: t.expand(prompts, *t.shape[1:]).repeat_interleave(each, 0) for n, t in self._tensors.items()}
        return replace(self, **grown)

    @classmethod
    def cat(cls, parts: "Sequence[Conditioning]") -> Self:
        """The rows of several, under each other.

        Raises:
            TypeError: conditioning of another family.
        """
        for part in parts:
            if not isinstance(part, cls):
                raise TypeError(
                    f"This denoiser reads {cls.__name__}, but {type(part).__name__} came. "
                    "Encode the prompt with the blocks of its family."
                )
        mine = cast("Sequence[Self]", parts)
        rows = {name: torch.cat([p._tensors[name] for p in mine]) for name in mine[0]._tensors}
        return replace(mine[0], **rows)

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class UNetConditioning(Conditioning):
    """What a U-Net reads: tokens, and the inputs that its family has besides."""

    def unet_inputs(self, dtype: torch.dtype) -> Mapping[str, Tensor] | None:
        """The inputs besides tokens, under their published names (`added_cond_kwargs`); None for no such input."""
        return None


@dataclass(frozen=True)
class SDConditioning(UNetConditioning):
    """Stable Diffusion 1.x and 2.x: tokens alone."""


@dataclass(frozen=True)
class SDXLText(Conditioning):
    """SDXL's prompt before sizes are added. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class SDXLConditioning(SDXLText, UNetConditioning):
    """What SDXL's U-Net reads (Podell et al. 2023, section 2.2). time_ids: (rows, 6 or 5).

    It is a text too, so that what one run encoded may be given to another, which adds its own sizes.
    """

    time_ids: Float[Tensor, "rows ids"]

    def unet_inputs(self, dtype: torch.dtype) -> Mapping[str, Tensor]:
        """The pooled prompt in the U-Net's dtype, and the sizes in float32, which float16 could not hold."""
        return {"text_embeds": self.pooled.to(dtype), "time_ids": self.time_ids}


@dataclass(frozen=True)
class FluxConditioning(Conditioning):
    """What Flux's transformer reads: tokens of T5, and the prompt pooled by CLIP. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class SD3Conditioning(Conditioning):
    """What Stable Diffusion 3 reads: tokens of CLIP and of T5, and the prompt pooled by CLIP. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class PixArtConditioning(Conditioning):
    """What PixArt reads: T5's tokens, and which of them are words. mask: (rows, tokens), 0 on filling."""

    mask: Float[Tensor, "rows tokens"]
