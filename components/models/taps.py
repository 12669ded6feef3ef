"""Taps: what some layers of a denoiser do otherwise in a perturbed pass. They make views; no model is ever touched."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.block import Lazy
from ...graph.errors import ConfigError, LoadError
from ...registry import did_you_mean
from ..storage.weights import on_meta
from .attention import Mixing
from .views import Change, shallow_copy, view

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


class PerturbableLayers(NamedTuple):
    """What a model says of its layers: `model.perturbable_layers()`."""

    blocks: Sequence[str]
    """The paths of its transformer blocks, in forward order."""
    usual: Sequence[str]
    """Those that are perturbed where nobody says which."""
    attending: Sequence[str]
    """Those with self-attention, which alone can be made the identity or blurred."""
    attention: tuple[str, ...] = ("attn1",)
    feed_forward: tuple[str, ...] = ("ff",)
    """Names in a block of each of the two; those that a block does not have are passed over."""
    patch: int | None = None
    """The side of the square of latents that a token stands for; None where each level halves the one above."""


Size: TypeAlias = tuple[int, int]


def default_blocks(blocks: Sequence[str]) -> Sequence[str]:
    """Those of a diffusion transformer that are perturbed where nobody says which: the seventh to ninth, as published
    with SD 3.5 medium, or the middle of fewer."""
    return blocks[7:10] if len(blocks) >= 10 else blocks[len(blocks) // 2 :][:1]


def find_perturbable(component: Any) -> PerturbableLayers | None:
    """What a model, or a handle whose model is not loaded, says of its layers; None where it says nothing.

    Any: whatever a graph binds. A model that is not loaded is made once without memory, from its config.
    """
    if isinstance(component, nn.Module):
        says = getattr(component, "perturbable_layers", None)
        return None if says is None else says()
    if not isinstance(component, Lazy) or not hasattr(component.type, "perturbable_layers") or not component.config:
        return None
    try:
        return _layers_by(component.type, json.dumps(component.config, sort_keys=True))
    except (ConfigError, LoadError):  # which `ready` reports
        return None


@lru_cache(maxsize=16)
def _layers_by(kind: Any, config: str) -> PerturbableLayers:  # Any: a model class that says
    with on_meta():
        return kind.from_config(json.loads(config)).perturbable_layers()


def apply_taps(model: M, taps: Taps, size: Size) -> M:
    """The model with these taps, sharing every parameter, for latents of `size` (height, width).

    Raises:
        ConfigError: layers that the model does not have, with those it has.
    """
    says = getattr(model, "perturbable_layers", None)
    if says is None:
        raise ConfigError(f"{type(model).__name__} does not say which of its layers can be perturbed. Guide otherwise.")
    layers: PerturbableLayers = says()
    for tap in taps.taps:
        changes: dict[str, Change] = {}
        for path in select_blocks(tap, layers, type(model).__name__):
            changes |= _changes(tap.change, model.get_submodule(path), path, layers, size)
        model = view(model, changes)
    return model


def select_blocks(tap: Tap, layers: PerturbableLayers, model: str) -> list[str]:
    """The paths of the blocks that a tap names; ConfigError, with those there are, where the model has none such."""
    if not layers.blocks:
        raise ConfigError(f"This {model} has no transformer blocks, so no guider can perturb them. Guide otherwise.")
    stack = list(layers.blocks)
    if tap.stack != "auto":
        stack = [path for path in stack if path.rpartition(".")[0] == tap.stack]
        if not stack:
            stacks = dict.fromkeys(path.rpartition(".")[0] for path in layers.blocks)
            raise ConfigError(f"{model} has no stack of layers {tap.stack!r}. {did_you_mean(tap.stack, stacks)}")
    named: dict[str, None] = {}
    for layer in tap.layers:
        found = _found(layer, stack)
        if not found:
            inside = "" if tap.stack == "auto" else f" in {tap.stack!r}"
            places = f"0 to {len(stack) - 1}, which are: " if isinstance(layer, int) else ""
            listed = did_you_mean(str(layer), stack).replace("There are: ", f"There are: {places}")
            raise ConfigError(f"{model} has no layer {layer!r}{inside}. {listed}")
        named |= dict.fromkeys(found)
    paths = list(named) if tap.layers else [path for path in layers.usual if path in stack] or stack
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


def _changes(
    change: Identity | Blur | Drop, block: nn.Module, path: str, layers: PerturbableLayers, size: Size
) -> dict[str, Change]:
    attention, feed_forward = (
        [f"{path}.{name}" for name in names if name in block._modules]
        for names in (layers.attention, layers.feed_forward)
    )
    match change:
        case Identity():
            return dict.fromkeys(attention, _mixing(IdentityMix))
        case Blur(sigma):
            return dict.fromkeys(attention, _mixing(BlurredMix, sigma=sigma, size=size, patch=layers.patch))
        case Drop(attention=True, feed_forward=True, dropout=part):
            return {path: _dropping(part, layers.blocks.index(path), keeps=True)}
        case Drop(dropout=part):
            wanted = [*(attention if change.attention else ()), *(feed_forward if change.feed_forward else ())]
            return {p: _dropping(part, layers.blocks.index(path), keeps=False) for p in wanted}


# ------------------------------------------------------------------------------------------------- the changed modules
class IdentityMix(Mixing):
    """Attention with scores that are the identity: what it mixes is the values."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return v


class BlurredMix(Mixing):
    """Attention with blurred queries of the image."""

    sigma: float
    size: Size
    patch: int | None

    def ask(self, q: Tensor, start: int = 0) -> Tensor:
        if self.patch is None:
            return blur(q, self.sigma, self.size)
        sides = self.size[0] // self.patch, self.size[1] // self.patch
        end = start + sides[0] * sides[1]  # behind it lie the tokens of images that are shown, which stay
        return torch.cat([q[:, :, :start], blur(q[:, :, start:end], self.sigma, sides), q[:, :, end:]], dim=2)


def _mixing(how: type[Mixing], **held: object) -> Change:
    """Another way to mix, for attention of any kind."""

    def change(module: nn.Module) -> nn.Module:
        twin = shallow_copy(module, also(how, type(module)))
        twin.__dict__.update(held)
        return twin

    return change


@cache
def also(how: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    """A class that does as `how` what both know, and is a `kind` otherwise."""
    return cast("type[nn.Module]", type(f"{how.__name__}{kind.__name__}", (how, kind), {}))


class Dropped(nn.Module):
    """A module of which a part of what it gives is lost. `keeps`: what came in stays, and only what it adds is lost.

    A module with several `streams` takes as many tensors first, and gives as many.
    """

    def __init__(self, inner: nn.Module, part: float, seed: int, *, keeps: bool) -> None:
        super().__init__()
        self.inner = inner
        self.part, self.seed, self.keeps = part, seed, keeps
        self.streams: int | None = getattr(inner, "streams", None)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        bases = [x if self.keeps else torch.zeros_like(x) for x in inputs[: self.streams or 1]]
        if self.part == 1:
            return bases[0] if self.streams is None else tuple(bases)
        given = self.inner(*inputs)
        # The mask is drawn on the CPU from a seed of its own: one mask for all rows, turns and devices.
        random = torch.Generator("cpu").manual_seed(self.seed)
        lossy: list[Tensor] = []
        for base, full in zip(bases, [given] if self.streams is None else given, strict=True):
            kept = torch.rand(base.shape[1:], generator=random, device="cpu") >= self.part
            lossy.append(base + (full - base) * (kept.to(base.device, base.dtype) / (1 - self.part)))
        return lossy[0] if self.streams is None else tuple(lossy)


def _dropping(part: float, seed: int, *, keeps: bool) -> Change:
    return lambda module: Dropped(module, part, seed, keeps=keeps) if part else module


# ---------------------------------------------------------------------------------------------------------------- blur
def blur(q: Tensor, sigma: float, size: Size) -> Tensor:
    """Queries `b heads n d` blurred over their image; `size` is its latents', of which they may be a smaller level."""
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
