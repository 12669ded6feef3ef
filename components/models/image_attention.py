"""Attention to an image prompt: a branch that the denoiser adds for one pass. It makes views; the model stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .attention import AttentionCore, AttentionKernel
from .levels import Size, level_size
from .views import Replacement, combined_class, shallow_copy, view

M = TypeVar("M", bound=nn.Module)


class AddsImages(Protocol):
    """A model that reads image prompts, and knows which layers of a denoiser attend to them."""

    def replacements(self, model: nn.Module, branch: "ImageBranch", held: "HeldTokens") -> Mapping[str, Replacement]:
        """Return layers for paths of a denoiser, with which it attends to the tokens in `held`."""
        ...


@dataclass(frozen=True, eq=False)
class ImageBranch:
    """The part of an image prompt that all passes of a run share. Passes with equal branches may share a forward: those
    of one adapter with equal scales, without masks or with one mask.

    adapter: the model that makes the tokens. scale: the weight of the attention to them, a number or another form that
    the adapter reads. mask: their weight in each part of the picture, (1, 1, rows, columns) from 0 to 1; None for 1
    everywhere.
    """

    adapter: AddsImages
    scale: Any  # a number, or a table that the adapter reads
    mask: Tensor | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageBranch):
            return NotImplemented
        return self.adapter is other.adapter and self.mask is other.mask and self.scale == other.scale

    def __hash__(self) -> int:
        return hash((id(self.adapter), id(self.mask)))


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """An image prompt of one pass.

    layers: tensors that the layers of the branch read, made by its adapter; with the rows first, or one row for all.
    """

    branch: ImageBranch
    layers: tuple[Tensor, ...]


class HeldTokens:
    """The tokens of one branch in a view. `predict` of a run sets them before a forward, so the view is of one run.

    layers: as in `ImageTokens`, for the rows of all passes of the forward. size: of the latents.
    """

    def __init__(self, size: Size) -> None:
        self.size = size
        self.layers: tuple[Tensor, ...] = ()
        self._joined_of: tuple[tuple[ImageTokens, ...], tuple[int, ...], torch.device] | None = None

    def set(self, tokens: Sequence[ImageTokens], rows: Sequence[int], device: torch.device) -> None:
        """Set the tokens for a forward of several passes with these numbers of rows, on the device of the latents."""
        source = tuple(tokens), tuple(rows), device
        if self._joined_of == source:  # as in the step before
            return
        self.layers = tuple(
            torch.cat([_for_rows(part, n).to(device) for part, n in zip(parts, rows, strict=True)])
            for parts in zip(*(one.layers for one in tokens), strict=True)
        )
        self._joined_of = source


def _for_rows(part: Tensor, rows: int) -> Tensor:
    if len(part) not in (1, rows):
        raise UnfitValue(
            f"An image prompt has {len(part)} rows, and the pass has {rows}. Give one for all rows, or one each."
        )
    return part.expand(rows, *part.shape[1:])


def attach_images(model: M, branches: Sequence[ImageBranch], held: Sequence[HeldTokens]) -> M:
    """Return a view of a denoiser that attends to the tokens in `held` too, one for each branch."""
    for branch, own in zip(branches, held, strict=True):
        model = view(model, branch.adapter.replacements(model, branch, own))
    return model


@dataclass(frozen=True, eq=False)
class LayerImages:
    """The tokens of one branch for one layer: its keys are `held.layers[index]`, its values are the next.

    Both are (rows, tokens, channels). mask: as in `ImageBranch`.
    """

    held: HeldTokens
    index: int
    scale: float
    mask: Tensor | None

    def added(self, q: Tensor, kernel: AttentionKernel, own: Sequence[Tensor] = ()) -> Tensor:
        """The attention of queries `b heads n d` to the image prompt, scaled.

        kernel: of the layer. own: keys and values of the layer, `b heads n d`, to which they attend too.
        """
        keys, values = (
            t.to(q).unflatten(2, (q.shape[1], -1)).transpose(1, 2)
            for t in self.held.layers[self.index : self.index + 2]
        )
        if own:
            keys, values = (torch.cat(parts, dim=2) for parts in zip(own, (keys, values), strict=True))
        found = kernel(q, keys, values, None)
        if self.mask is not None:
            found = found * level_mask(self.mask, q.shape[2], self.held.size).to(q)
        return found * self.scale


class ImageAttention(AttentionCore):
    """Attention to the prompt that adds softmax(q k_imageᵀ / √d) v_image for each image prompt.

    Ye et al. 2023 (IP-Adapter), equation 5.
    """

    images: tuple[LayerImages, ...]

    def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int = 0) -> Tensor:
        """Compute attention to the prompt, and add attention to the image prompts."""
        found = super().scaled_dot_product(q, k, v, mask, start)
        for image in self.images:
            found = found + image.added(q, self.kernel)
        return found


def with_images(images: LayerImages, kind: type[nn.Module] = ImageAttention) -> Replacement:
    """A replacement that makes a layer attend to an image prompt, besides those that it attends to already.

    kind: the class that the layer becomes too. It reads `images`.
    """

    def replacement(module: nn.Module) -> nn.Module:
        has = isinstance(module, kind)
        twin = shallow_copy(module, type(module) if has else combined_class(kind, type(module)))
        twin.__dict__["images"] = (*(module.__dict__["images"] if has else ()), images)
        return twin

    return replacement


class LowRankLayer(nn.Module):
    """A linear layer that adds the LoRA of image prompts, which face adapters have: `up(down(x))` for each.

    It is a class beside `PatchedLayer`, since an image prompt belongs to a pass, and an adapter to a component.
    """

    image_lora: tuple[tuple[Tensor, Tensor], ...]

    def forward(self, x: Tensor) -> Tensor:
        """Map what the layer maps, quantized or not."""
        y = super().forward(x)
        for down, up in self.image_lora:
            inner = F.linear(x.to(down.dtype), down.to(x.device))
            y = y + F.linear(inner, up.to(x.device)).to(y.dtype)
        return y


def with_low_rank(down: Tensor, up: Tensor) -> Replacement:
    """A replacement that adds a LoRA to a linear layer; once, where several branches have the same."""

    def replacement(module: nn.Module) -> nn.Module:
        before = module.image_lora if isinstance(module, LowRankLayer) else ()
        if any(known is down for known, _ in before):
            return module
        twin = shallow_copy(module, type(module) if before else combined_class(LowRankLayer, type(module)))
        twin.__dict__["image_lora"] = (*before, (down, up))
        return twin

    return replacement


def level_mask(mask: Tensor, tokens: int, size: Size) -> Tensor:
    """A mask (1, 1, rows, columns) for the tokens of a level of a U-Net, (1, 1, tokens, 1)."""
    sides = level_size(tokens, size)
    return F.interpolate(mask, size=sides, mode="bicubic").reshape(1, 1, tokens, 1)
