"""Taps: what some layers of a denoiser do otherwise in a perturbed pass. They make views; no model is ever touched."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from .attention import Attention
from .views import Change, seen_as, shallow, view

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Identity:
    """Each token looks at itself alone: attention scores become the identity (Ahn et al. 2024)."""


@dataclass(frozen=True)
class Blur:
    """Queries of self-attention are blurred over the image (Hong 2024); `sigma` in tokens.

    Infinite: every token asks the mean query.
    """

    sigma: float = math.inf


@dataclass(frozen=True)
class Drop:
    """Self-attention, feed-forward, or (both) the whole block add nothing. Below 1, `dropout` of what they add is lost.

    What is lost is drawn once and for all turns and rows, so that a pass is a function of its inputs.
    """

    attention: bool = True
    feed_forward: bool = True
    dropout: float = 1.0


@dataclass(frozen=True)
class Tap:
    """A change, and the transformer blocks that make it.

    layers: places in forward order, or names (a path, or the beginning of one: "mid", "up_blocks.1"); none stands for
    those the model names for it. stack: the list of blocks that places count in, "auto" for all of the model.
    """

    change: Identity | Blur | Drop
    layers: tuple[int | str, ...] = ()
    stack: str = "auto"


@dataclass(frozen=True)
class Taps:
    """All that is otherwise in a pass. Passes of equal taps may share a forward; no taps is the model itself."""

    taps: tuple[Tap, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.taps)


NO_TAPS = Taps()


class Perturbable(NamedTuple):
    """What a model says of its layers: `model.perturbable_layers()`."""

    blocks: Sequence[str]
    """The paths of its transformer blocks, in forward order."""
    usual: Sequence[str]
    """Those that are perturbed where nobody says which."""
    attending: Sequence[str]
    """Those with self-attention, which alone can be made the identity or blurred."""
    attention: str = "attn1"
    feed_forward: str = "ff"


Size: TypeAlias = tuple[int, int]


def tapped(model: M, taps: Taps, size: Size) -> M:
    """The model with these taps, sharing every parameter, for latents of `size` (height, width).

    Raises:
        ConfigError: layers that the model does not have, with those it has.
    """
    says = getattr(model, "perturbable_layers", None)
    if says is None:
        raise ConfigError(f"{type(model).__name__} does not say which of its layers can be perturbed. Guide otherwise.")
    layers: Perturbable = says()
    for tap in taps.taps:
        chosen = _chosen(tap, layers, type(model).__name__)
        changes: dict[str, Change] = {}
        for path in chosen:
            changes |= _changes(tap.change, path, layers, size)
        model = view(model, changes)
    return model


def _chosen(tap: Tap, layers: Perturbable, model: str) -> list[str]:
    """The paths of the blocks that a tap names."""
    if not layers.blocks:
        raise ConfigError(f"This {model} has no transformer blocks, so no guider can perturb them. Guide otherwise.")
    stack = list(layers.blocks)
    if tap.stack != "auto":
        stack = [path for path in stack if path.rpartition(".")[0] == tap.stack]
        if not stack:
            stacks = dict.fromkeys(path.rpartition(".")[0] for path in layers.blocks)
            raise ConfigError(f"{model} has no stack of layers {tap.stack!r}. {did_you_mean(tap.stack, stacks)}")
    chosen: dict[str, None] = {}
    for layer in tap.layers:
        found = _found(layer, stack)
        if not found:
            inside = "" if tap.stack == "auto" else f" in {tap.stack!r}"
            places = f"0 to {len(stack) - 1}, which are: " if isinstance(layer, int) else ""
            listed = did_you_mean(str(layer), stack).replace("There are: ", f"There are: {places}")
            raise ConfigError(f"{model} has no layer {layer!r}{inside}. {listed}")
        chosen |= dict.fromkeys(found)
    paths = list(chosen) if tap.layers else [path for path in layers.usual if path in stack] or stack
    if isinstance(tap.change, Drop):
        return paths
    if tap.layers and (lacking := [path for path in paths if path not in layers.attending]):
        able = ", ".join(layers.attending) or "none"
        raise ConfigError(f"{', '.join(lacking)} of {model} has no self-attention to perturb. These have: {able}.")
    return [path for path in paths if path in layers.attending] or list(layers.attending)[:1]


def _found(layer: int | str, stack: Sequence[str]) -> Sequence[str]:
    if isinstance(layer, int):
        return stack[layer : layer + 1] if layer >= 0 else ()
    short = {"mid": "mid_block", "down": "down_blocks", "up": "up_blocks"}
    head, dot, rest = layer.partition(".")
    name = short.get(head, head) + dot + rest
    return [path for path in stack if path == name or path.startswith(f"{name}.")]


def _changes(change: Identity | Blur | Drop, path: str, layers: Perturbable, size: Size) -> dict[str, Change]:
    attention, feed_forward = f"{path}.{layers.attention}", f"{path}.{layers.feed_forward}"
    match change:
        case Identity():
            return {attention: seen_as(IdentityAttention)}
        case Blur(sigma):
            return {attention: _blurring(sigma, size)}
        case Drop(attention=True, feed_forward=True, dropout=part):
            return {path: _dropping(part, layers.blocks.index(path), keeps=True)}
        case Drop(dropout=part):
            wanted = {attention: change.attention, feed_forward: change.feed_forward}
            return {p: _dropping(part, layers.blocks.index(path), keeps=False) for p, on in wanted.items() if on}


# ------------------------------------------------------------------------------------------------- the changed modules
class IdentityAttention(Attention):
    """Attention with scores that are the identity: what it mixes is the values."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return v


class BlurredAttention(Attention):
    """Attention with blurred queries."""

    sigma: float
    size: Size

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return super().mix(blurred(q, self.sigma, self.size), k, v, mask)


def _blurring(sigma: float, size: Size) -> Change:
    def change(module: nn.Module) -> nn.Module:
        twin = shallow(module, BlurredAttention)
        twin.__dict__.update(sigma=sigma, size=size)
        return twin

    return change


class Dropped(nn.Module):
    """A module of which a part of what it gives is lost. `keeps`: what came in stays, and only what it adds is lost."""

    def __init__(self, inner: nn.Module, part: float, seed: int, *, keeps: bool) -> None:
        super().__init__()
        self.inner = inner
        self.part, self.seed, self.keeps = part, seed, keeps

    def forward(self, x: Tensor, *rest: Tensor | None) -> Tensor:
        base = x if self.keeps else torch.zeros_like(x)
        if self.part == 1:
            return base
        # The mask is drawn on the CPU from a seed of its own: one mask for all rows, turns and devices.
        random = torch.Generator("cpu").manual_seed(self.seed)
        kept = torch.rand(x.shape[1:], generator=random, device="cpu") >= self.part
        added = self.inner(x, *rest) - base
        return base + added * (kept.to(x.device, x.dtype) / (1 - self.part))


def _dropping(part: float, seed: int, *, keeps: bool) -> Change:
    return lambda module: Dropped(module, part, seed, keeps=keeps) if part else module


# ---------------------------------------------------------------------------------------------------------------- blur
def blurred(q: Tensor, sigma: float, size: Size) -> Tensor:
    """Queries `b heads n d` blurred over the image whose latents have `size`."""
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
    """Weights over 6 sigma, an odd number of them and no more than reflection can pad: the published kernel."""
    count = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    count = min(count, side - (side % 2 - 1))
    x = torch.arange(count, dtype=torch.float32, device="cpu") - (count - 1) / 2
    weights = torch.exp(-0.5 * (x / sigma) ** 2)
    return weights / weights.sum()


def level_size(tokens: int, size: Size) -> Size:
    """Height and width of a level of `tokens` tokens, for latents of `size`: each level halves the one above."""
    for roundings in (1, 0):  # an odd side is rounded up, or down where a U-Net does not pad before it halves
        for sides in _halvings(size, roundings):
            if sides[0] * sides[1] == tokens:
                return sides
    raise ValueError(f"{tokens} tokens are no level of latents of {size[0]}x{size[1]}; a finite blur needs to know.")


def _halvings(size: Size, up: int) -> Iterable[Size]:
    height, width = size
    yield height, width
    while height * width > 1:
        height, width = max(1, (height + up) // 2), max(1, (width + up) // 2)
        yield height, width
