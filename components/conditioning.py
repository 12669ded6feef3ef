"""Encoded prompts: one class for each family of denoisers."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..graph.errors import UnfitValue


@dataclass(frozen=True)
class Conditioning:
    """An encoded prompt, with one row for each image.

    Each family of denoisers reads its own subclass, which adds fields. A graph that passes the conditioning of one
    family to the denoiser of another is refused. A port of this class fits any family, the same one at all ports of
    its block. Fields that are tensors have the rows first. tokens: (rows, tokens, width).
    """

    __family__: ClassVar[bool] = True

    tokens: Float[Tensor, "rows tokens width"]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.tokens)

    @property
    def row_shape(self) -> Hashable:
        """The class, and the shape of one row of each tensor: conditionings with equal ones can be concatenated."""
        return type(self), tuple((name, t.shape[1:]) for name, t in self._tensors.items())

    def __getitem__(self, rows: slice) -> Self:
        """Return some of the rows."""
        return replace(self, **{name: t[rows] for name, t in self._tensors.items()})

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device."""
        return replace(self, **{name: t.to(device) for name, t in self._tensors.items()})

    def expand(self, prompts: int, each: int) -> Self:
        """Repeat each row `each` times, one after another; a single row is first repeated for all `prompts`."""
        grown = {n: t.expand(prompts, *t.shape[1:]).repeat_interleave(each, 0) for n, t in self._tensors.items()}
        return replace(self, **grown)

    @classmethod
    def cat(cls, parts: "Sequence[Conditioning]") -> Self:
        """Concatenate the rows of several.

        Raises:
            UnfitValue: conditioning of another family.
        """
        for part in parts:
            if not isinstance(part, cls):
                raise UnfitValue(
                    f"This denoiser needs {cls.__name__}, got {type(part).__name__}. "
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
    """The conditioning of a U-Net: tokens, and further inputs in some families."""

    def unet_inputs(self, dtype: torch.dtype) -> Mapping[str, Tensor] | None:
        """Return the further inputs under their published names, for `added_cond_kwargs`; None without any."""
        return None


@dataclass(frozen=True)
class SDConditioning(UNetConditioning):
    """The conditioning of Stable Diffusion 1.x and 2.x: tokens alone."""


@dataclass(frozen=True)
class SDXLText(Conditioning):
    """The encoded prompt of SDXL, without sizes. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class SDXLConditioning(SDXLText, UNetConditioning):
    """The conditioning of SDXL's U-Net (Podell et al. 2023, section 2.2). time_ids: (rows, 6 or 5), the size numbers.

    It is a subclass of `SDXLText`, so that the conditioning of one run can be passed to another, with other sizes.
    """

    time_ids: Float[Tensor, "rows ids"]

    def unet_inputs(self, dtype: torch.dtype) -> Mapping[str, Tensor]:
        """Return the pooled prompt in `dtype`, and the sizes in float32, since large ones overflow float16."""
        return {"text_embeds": self.pooled.to(dtype), "time_ids": self.time_ids}


@dataclass(frozen=True)
class FluxConditioning(Conditioning):
    """The conditioning of Flux: tokens of T5, and the pooled prompt of CLIP. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class SD3Conditioning(Conditioning):
    """The conditioning of SD 3: tokens of CLIP and T5, and the pooled prompt of CLIP. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class PixArtConditioning(Conditioning):
    """The conditioning of PixArt: tokens of T5. mask: (rows, tokens), 0 on padding."""

    mask: Float[Tensor, "rows tokens"]
