"""Taps: changes of some layers of a denoiser for one pass. They make views; the model itself does not change."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import ConfigError, LoadError, UnfitValue
from ...graph.fields import Lazy
from ...registry import did_you_mean
from ..storage.building import on_meta
from .attention import AttentionCore
from .perturbable import HasPerturbableLayers, PerturbableLayers
from .transformer_layers import TwoStreams
from .views import Replacement, combined_class, shallow_copy, view

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Identity:
    """Each token of the picture attends to no other one of it: that part of the map is the identity (Ahn et al. 2024).

    Where attention is joint, tokens of the picture still attend to the prompt and to reference images, whose tokens
    attend to all, as in the published pipeline of Stable Diffusion 3.
    """


@dataclass(frozen=True)
class Blur:
    """The queries of self-attention are blurred over the image (Hong 2024).

    `sigma` is in tokens; with an infinite one, every token has the mean query.
    """

    sigma: float = math.inf


@dataclass(frozen=True)
class Drop:
    """Self-attention, feed-forward, or (both) the whole block add nothing.

    With `dropout` below 1, only that fraction of the numbers that they add is set to zero. Which ones is the same for
    all steps and rows, so that a pass is a function of its inputs.
    """

    attention: bool = True
    feed_forward: bool = True
    dropout: float = 1.0


@dataclass(frozen=True)
class Tap:
    """A change, and the transformer blocks that it changes.

    layers: indices in forward order, or names: a path or its beginning ("mid", "up_blocks.1"). () is the default of
    the model. stack: the path of the list of blocks that indices count in; "auto" for all blocks of the model.
    """

    change: Identity | Blur | Drop
    layers: tuple[int | str, ...] = ()
    stack: str = "auto"


@dataclass(frozen=True)
class Taps:
    """All changes for a pass. Passes with equal taps may share a forward; a pass without taps uses the model itself."""

    taps: tuple[Tap, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.taps)


NO_TAPS = Taps()


Size: TypeAlias = tuple[int, int]
"""Height and width."""


def find_perturbable(component: Any) -> PerturbableLayers | None:
    """Return the perturbable layers of a model or of a handle; None where the model has no such method.

    Any: whatever a graph binds. For a handle whose model is not loaded, the model is made once on the meta device.
    """
    if isinstance(component, HasPerturbableLayers):
        return component.perturbable_layers()
    if not isinstance(component, Lazy) or not isinstance(component.type, HasPerturbableLayers) or not component.config:
        return None
    try:
        return _layers_of_class(component.type, json.dumps(component.config, sort_keys=True))
    except (ConfigError, LoadError):  # `ready` reports them
        return None


@lru_cache(maxsize=16)
def _layers_of_class(kind: Any, config: str) -> PerturbableLayers:  # Any: a model class with the method
    with on_meta():
        return kind.from_config(json.loads(config)).perturbable_layers()


def apply_taps(model: M, taps: Taps, size: Size) -> M:
    """Return a view of the model with these taps, for latents of `size`.

    Raises:
        ConfigError: a model without `perturbable_layers`, or layers that the model does not have.
    """
    if not isinstance(model, HasPerturbableLayers):
        raise ConfigError(f"{type(model).__name__} has no perturbable_layers(). Use a guider that perturbs no layers.")
    layers = model.perturbable_layers()
    for tap in taps.taps:
        changes: dict[str, Replacement] = {}
        for path in select_blocks(tap, layers, type(model).__name__):
            changes |= _changes(tap.change, model.get_submodule(path), path, layers, size)
        model = view(model, changes)
    return model


def select_blocks(tap: Tap, layers: PerturbableLayers, model: str) -> list[str]:
    """Return the paths of the blocks that a tap names; `model` is the class name for errors.

    Raises:
        ConfigError: blocks that the model does not have, or that lack self-attention where the change needs it.
    """
    if not layers.blocks:
        raise ConfigError(f"This {model} has no transformer blocks. Use a guider that perturbs no layers.")
    stack = list(layers.blocks)
    if tap.stack != "auto":
        stack = [path for path in stack if path.rpartition(".")[0] == tap.stack]
        if not stack:
            stacks = dict.fromkeys(path.rpartition(".")[0] for path in layers.blocks)
            raise ConfigError(f"{model} has no stack of layers {tap.stack!r}. {did_you_mean(tap.stack, stacks)}")
    named: dict[str, None] = {}
    for layer in tap.layers:
        matches = _matches(layer, stack)
        if not matches:
            inside = "" if tap.stack == "auto" else f" in {tap.stack!r}"
            indices = f"0 to {len(stack) - 1}, which are: " if isinstance(layer, int) else ""
            listed = did_you_mean(str(layer), stack).replace("There are: ", f"There are: {indices}")
            raise ConfigError(f"{model} has no layer {layer!r}{inside}. {listed}")
        named |= dict.fromkeys(matches)
    paths = list(named) if tap.layers else [path for path in layers.default if path in stack] or stack
    if isinstance(tap.change, Drop):
        return paths
    if tap.layers and (lacking := [path for path in paths if path not in layers.with_self_attention]):
        able = ", ".join(layers.with_self_attention) or "none"
        raise ConfigError(f"{', '.join(lacking)} of {model} has no self-attention. Name blocks that have it: {able}.")
    return [path for path in paths if path in layers.with_self_attention] or list(layers.with_self_attention)[:1]


def _matches(layer: int | str, stack: Sequence[str]) -> Sequence[str]:
    if isinstance(layer, int):
        return stack[layer : layer + 1] if layer >= 0 else ()
    short = {"mid": "mid_block", "down": "down_blocks", "up": "up_blocks"}
    head, dot, rest = layer.partition(".")
    name = short.get(head, head) + dot + rest
    return [path for path in stack if path == name or path.startswith(f"{name}.")]


def _changes(
    change: Identity | Blur | Drop, block: nn.Module, path: str, layers: PerturbableLayers, size: Size
) -> dict[str, Replacement]:
    attention, feed_forward = (
        [f"{path}.{name}" for name in names if name in block._modules]
        for names in (layers.attention, layers.feed_forward)
    )
    match change:
        case Identity():
            return dict.fromkeys(attention, _with_attention(IdentityAttention, size=size, patch=layers.patch))
        case Blur(sigma):
            return dict.fromkeys(
                attention, _with_attention(BlurredAttention, sigma=sigma, size=size, patch=layers.patch)
            )
        case Drop(attention=True, feed_forward=True, dropout=fraction):
            return {path: _with_dropped_output(fraction, layers.blocks.index(path), residual=True)}
        case Drop(dropout=fraction):
            paths = [*(attention if change.attention else ()), *(feed_forward if change.feed_forward else ())]
            return {p: _with_dropped_output(fraction, layers.blocks.index(path), residual=False) for p in paths}


# ------------------------------------------------------------------------------------------------- the changed modules
class PictureAttention(AttentionCore):
    """Attention that knows which of its tokens are those of the picture.

    size: of the latents. patch: see `PerturbableLayers`.
    """

    size: Size
    patch: int | None

    def picture(self, count: int, start: int) -> slice:
        """Return which of `count` tokens are the picture's. The prompt's come before, those of references after."""
        if self.patch is None:
            return slice(0, count)
        return slice(start, start + self.size[0] // self.patch * (self.size[1] // self.patch))


class IdentityAttention(PictureAttention):
    """Attention whose map between tokens of the picture is the identity."""

    def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int = 0) -> Tensor:
        """Return `v` where all tokens are the picture's, else attention with that part of the map masked."""
        count = v.shape[2]
        own = self.picture(count, start)
        if own == slice(0, count):
            return v
        allowed = torch.ones(count, count, dtype=torch.bool, device=v.device)
        side = own.stop - own.start
        allowed[own, own] = torch.eye(side, dtype=torch.bool, device=v.device)
        return super().scaled_dot_product(q, k, v, allowed, start)


class BlurredAttention(PictureAttention):
    """Attention with blurred queries of the image."""

    sigma: float

    def queries(self, q: Tensor, start: int = 0) -> Tensor:
        """Blur the queries of the image. Tokens of the prompt and of reference images stay."""
        if self.patch is None:
            return blur(q, self.sigma, self.size)
        sides = self.size[0] // self.patch, self.size[1] // self.patch
        end = self.picture(q.shape[2], start).stop
        return torch.cat([q[:, :, :start], blur(q[:, :, start:end], self.sigma, sides), q[:, :, end:]], dim=2)


def _with_attention(kind: type[AttentionCore], **attributes: object) -> Replacement:
    """A change that makes any attention also a `kind`, with these attributes."""

    def change(module: nn.Module) -> nn.Module:
        twin = shallow_copy(module, combined_class(kind, type(module)))
        twin.__dict__.update(attributes)
        return twin

    return change


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
        """Map what the inner module maps. With `fraction` 1 the inner module is not run."""
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


def _with_dropped_output(fraction: float, seed: int, *, residual: bool) -> Replacement:
    return lambda module: DroppedOutput(module, fraction, seed, residual=residual) if fraction else module


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


def level_size(tokens: int, size: Size) -> Size:
    """Find the height and width of the U-Net level with `tokens` tokens, for latents of `size`.

    Raises:
        UnfitValue: no level has so many tokens.
    """
    for rounding in (1, 0):  # an odd side is rounded up, or down where a U-Net does not pad before it halves
        for sides in _level_sizes(size, rounding):
            if sides[0] * sides[1] == tokens:
                return sides
    raise UnfitValue(f"Needs the tokens of a level of latents of {size[0]}x{size[1]}, got {tokens} tokens.")


def _level_sizes(size: Size, up: int) -> Iterable[Size]:
    height, width = size
    yield height, width
    while height * width > 1:
        height, width = max(1, (height + up) // 2), max(1, (width + up) // 2)
        yield height, width
