"""Changes that weaken a denoiser, for guiders with a perturbed pass."""

import math
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.levels import Size, level_size
from ..models.transformer_layers import TwoStreams
from ..models.views import Replacement
from .attention import AttentionCall, AttentionChange
from .change import Change
from .place import Place, TappedBlock


class Identity(AttentionChange):
    """Each token of the picture attends to no other one of it: that part of the map is the identity (Ahn et al. 2024).

    Where attention is joint, tokens of the picture still attend to the prompt and to reference images, whose tokens
    attend to all, as in the published pipeline of Stable Diffusion 3.
    """

    perturbs: ClassVar[bool] = True
    per_pass: ClassVar[bool] = True

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        """Return `v` where all tokens are the picture's, else attention with that part of the map masked."""
        count, own = v.shape[2], call.picture
        if own == slice(0, count):
            return v
        allowed = torch.ones(count, count, dtype=torch.bool, device=v.device)
        side = own.stop - own.start
        allowed[own, own] = torch.eye(side, dtype=torch.bool, device=v.device)
        return call.usual(q, k, v, allowed)


class Blur(AttentionChange):
    """The queries of self-attention are blurred over the image (Hong 2024).

    `sigma` is in tokens; with an infinite one, every token has the mean query. Tokens of the prompt and of reference
    images stay.
    """

    perturbs: ClassVar[bool] = True
    per_pass: ClassVar[bool] = True

    sigma: float = math.inf

    def queries(self, q: Tensor, call: AttentionCall) -> Tensor:
        """Blur the queries of the image."""
        if call.at.patch is None:
            return blur(q, self.sigma, call.at.size)
        own = call.picture
        blurred = blur(q[:, :, own], self.sigma, call.size)
        return torch.cat([q[:, :, : own.start], blurred, q[:, :, own.stop :]], dim=2)


class Drop(Change):
    """Self-attention, feed-forward, or (both) the whole block add nothing.

    With `dropout` below 1, only that fraction of the numbers that they add is set to zero. Which ones is the same for
    all steps and rows, so that a pass is a function of its inputs.
    """

    perturbs: ClassVar[bool] = True
    per_pass: ClassVar[bool] = True

    attention: bool = True
    feed_forward: bool = True
    dropout: float = 1.0

    def replaced(self, layer: nn.Module, at: Place) -> nn.Module:
        """Return the layer without its output, or a whole block without its additions."""
        if not self.dropout:
            return layer
        return DroppedOutput(layer, self.dropout, at.index, residual=at.path == at.block)

    def replacements(self, block: TappedBlock) -> Mapping[str, Replacement]:
        """Return the whole block, or the attention and the feed-forward layers in it."""
        if self.attention and self.feed_forward:
            places = block.parts("block")
        elif self.feed_forward:
            places = block.parts("feed_forward")
        else:
            own = block.layers.attention if self.attention else ()
            places = [place for place in block.parts("attention") if place.path.rpartition(".")[2] in own]
        return {place.path: partial(self.replaced, at=place) for place in places}


class DroppedOutput(nn.Module):
    """A module with a fraction of its output set to zero, and the rest scaled up (Srivastava et al. 2014).

    residual: the module adds to its input, and only what it adds is dropped.
    """

    def __init__(self, inner: nn.Module, fraction: float, seed: int, *, residual: bool) -> None:
        super().__init__()
        self.inner = inner
        self.fraction, self.seed, self.residual = fraction, seed, residual
        self.two_streams = isinstance(inner, TwoStreams)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the output of the inner module, with dropout. With `fraction` 1 the inner module is not run."""
        bases = [x if self.residual else torch.zeros_like(x) for x in inputs[: 2 if self.two_streams else 1]]
        if self.fraction == 1:
            return tuple(bases) if self.two_streams else bases[0]
        output = self.inner(*inputs)
        # The mask is drawn on the CPU from its own seed: one mask for all rows, steps and devices.
        generator = torch.Generator("cpu").manual_seed(self.seed)
        dropped: list[Tensor] = []
        for base, full in zip(bases, output if self.two_streams else [output], strict=True):
            kept = torch.rand(base.shape[1:], generator=generator, device="cpu") >= self.fraction
            dropped.append(base + (full - base) * (kept.to(base.device, base.dtype) / (1 - self.fraction)))
        return tuple(dropped) if self.two_streams else dropped[0]


# ---------------------------------------------------------------------------------------------------------------- blur
def blur(q: Tensor, sigma: float, size: Size) -> Tensor:
    """Blur queries `b heads n d` over the image; `size` is that of the latents, also for a smaller level."""
    if sigma == math.inf:
        return q.mean(2, keepdim=True).expand_as(q)
    height, width = level_size(q.shape[2], size)
    pixels = q.transpose(2, 3).reshape(-1, 1, height, width)  # (b heads d) 1 h w
    for side, dim in ((height, 2), (width, 3)):
        weights = _gaussian(sigma, side).to(q)
        half = len(weights) // 2
        padding = (0, 0, half, half) if dim == 2 else (half, half, 0, 0)
        kernel = weights.reshape((1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1))
        pixels = F.conv2d(F.pad(pixels, padding, mode="reflect"), kernel)
    return pixels.reshape(q.transpose(2, 3).shape).transpose(2, 3)


def _gaussian(sigma: float, side: int) -> Tensor:
    """The published kernel: an odd number of weights over 6 sigma, at most as many as reflection can pad."""
    count = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    count = min(count, side - (side % 2 - 1))
    x = torch.arange(count, dtype=torch.float32, device="cpu") - (count - 1) / 2
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return weights / weights.sum()
