"""Make one adapter of several."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from ...graph.structure import Structure
from ...registry import did_you_mean
from .adapter import Adapter, check_strength
from .extract import low_rank
from .known_models import names_in, place_published
from .names import ModelNames
from .patch_set import NamedPatch, PatchSet
from .patches import Additive, Full, LowRank, Patch
from .pieces import concatenated, split
from .placing import Placed, place
from .widening import wide, wide_shape

Method = Literal["cat", "svd", "ties", "dare"]
_METHODS: tuple[Method, ...] = ("cat", "svd", "ties", "dare")


@dataclass
class _Layer:
    """The patches of one layer, by the index of their adapter, with all strengths in their scales."""

    shape: torch.Size
    patches: dict[int, list[Additive]] = field(default_factory=dict[int, list[Additive]])

    def widened(self, columns: int) -> "_Layer":
        """The same patches for a matrix with so many columns."""
        patches = {number: [self._wide(patch, columns) for patch in own] for number, own in self.patches.items()}
        return _Layer(wide_shape(self.shape, columns), patches)

    def _wide(self, patch: Additive, columns: int) -> Additive:
        if isinstance(patch, LowRank):
            return replace(patch, down=wide(patch.down.flatten(1), columns))
        difference = patch.difference(torch.zeros(patch.shape(self.shape)))
        return Full(whole=wide(difference, columns), bias=patch.bias)


def combine(
    adapters: Sequence[Adapter],
    weights: Sequence[float] | None = None,
    method: Method = "cat",
    *,
    rank: int | None = None,
    density: float = 0.5,
    seed: int = 0,
    pipe: Structure | None = None,
    name: str = "combined",
) -> Adapter:
    """Make one adapter of several.

    * cat: their sum, exact. LoRA alone; the ranks add up.
    * svd: their sum, as the nearest matrices of `rank`.
    * ties: of each difference the largest numbers are kept; where signs differ, the heavier sign wins, and the numbers
      that have it are averaged (Yadav et al. 2023, algorithm 1).
    * dare: of each difference numbers are dropped at random, the others are divided by `density`, and the sum is taken
      (Yu et al. 2024, section 3.2).

    Args:
        adapters: two or more, whose differences do not depend on the matrices: no DoRA, OFT, IA3, GLoRA.
        weights: one factor for each, beside its strength; 1 each by default.
        method: see above.
        rank: of the result, for svd, ties and dare; None keeps whole differences.
        density: the fraction of numbers that ties and dare keep.
        seed: of the numbers that dare drops.
        pipe: the graph whose matrices they change; by default a published family that their names and shapes fit.
        name: the new adapter's name.

    Raises:
        ConfigError: adapters that cannot be added up, or that do not fit the graph.
    """
    factors = _checked(adapters, weights, method, rank, density)
    layers = _layers(adapters, factors, pipe)
    patches: list[NamedPatch] = []
    for number, (body, layer) in enumerate(layers.items()):
        if method == "cat":
            made: Patch = _concatenated(body, layer)
        else:
            made = _merged(layer, method, len(adapters), density, torch.Generator().manual_seed(seed + number), rank)
        patches.append(NamedPatch(body, "LoRA" if isinstance(made, LowRank) else "full", made))
    embeddings = tuple(dict.fromkeys(one for adapter in adapters for one in adapter.content.embeddings))
    return Adapter(name, PatchSet(name, tuple(patches), embeddings=embeddings))


def _checked(
    adapters: Sequence[Adapter], weights: Sequence[float] | None, method: str, rank: int | None, density: float
) -> Sequence[float]:
    """The factor of each adapter. ConfigError for arguments that do not go together."""
    if len(adapters) < 2:
        raise ConfigError(f"combine: needs two adapters or more. Got {len(adapters)}.")
    for adapter in cast("Sequence[Any]", adapters):  # any values, from the user
        if not isinstance(adapter, Adapter):
            raise ConfigError(f"combine: needs adapters. Got {adapter!r} ({type(adapter).__name__}).")
    factors = [1.0] * len(adapters) if weights is None else list(weights)
    if len(factors) != len(adapters):
        raise ConfigError(f"combine: needs one weight for each of {len(adapters)} adapters. Got {len(factors)}.")
    for factor in factors:
        check_strength("combine: weights", factor)
    if method not in _METHODS:
        raise ConfigError(f"combine: has no method {method!r}. {did_you_mean(method, _METHODS)}")
    if rank is not None and (method == "cat" or rank < 1):
        way = "cat keeps all ranks: leave rank= out, or pass method='svd'" if method == "cat" else "Pass 1 or more"
        raise ConfigError(f"combine: got rank={rank!r} with method={method!r}. {way}.")
    if not 0 < density <= 1:
        raise ConfigError(f"combine: needs a density above 0, at most 1. Got {density!r}.")
    if varying := [adapter.name for adapter in adapters if adapter.varies]:
        raise ConfigError(f"combine: the strength of {varying[0]!r} changes over the steps, so it has no sum.")
    if uneven := [adapter.name for adapter in adapters if adapter.blocks]:
        raise ConfigError(f"combine: the strength of {uneven[0]!r} differs between blocks. Pass it without blocks=.")
    return factors


def _layers(adapters: Sequence[Adapter], factors: Sequence[float], pipe: Structure | None) -> dict[str, _Layer]:
    """The layers that the adapters change, by PEFT's name."""
    found: dict[str, _Layer] = {}
    columns: dict[str, int] = {}
    for number, (adapter, factor) in enumerate(zip(adapters, factors, strict=True)):
        if pipe is None:
            placement, known = place_published(adapter.content, adapter.name)
        else:
            known = names_in(pipe.bindings)
            placement = place(adapter.content, known, adapter.name)
        if placement.absent:
            raise ConfigError(
                f"combine: the graph has no model for {placement.absent[0]} of {adapter.name!r}. Pass pipe=."
            )
        for component, placed in placement.placed.items():
            strength = factor * adapter.strength_of(component)
            for item in placed:
                for path, patch in _pieces(item, adapter, known[component]):
                    body = f"{component}.{path}"
                    layer = found.setdefault(body, _Layer(known[component].shapes[path]))
                    if layer.shape != known[component].shapes[path]:
                        raise ConfigError(
                            f"combine: {adapter.name!r} is for another family than the others. Pass pipe=."
                        )
                    layer.patches.setdefault(number, []).append(_scaled(patch, strength))
                    columns[body] = max(columns.get(body, 0), item.columns)
    return {body: layer.widened(n) if (n := columns[body]) else layer for body, layer in found.items()}


def _pieces(item: Placed, adapter: Adapter, names: ModelNames) -> list[tuple[str, Additive]]:
    """The patches of our layers."""
    pieces: list[Patch] | None = None
    layers = item.target.layers
    if isinstance(item.patch, Additive):
        sizes = [names.shapes[path][0] for path in layers]
        if (pieces := split(item, sizes)) is None:
            shape = wide_shape(names.source_shape(item.target), item.columns)
            whole = Full(whole=item.patch.difference(torch.zeros(shape)), bias=item.patch.bias)
            pieces = split(replace(item, patch=whole), sizes)
    additive = [piece for piece in pieces or () if isinstance(piece, Additive)]
    if not additive:
        raise ConfigError(
            f"combine: the change of {item.body} of {adapter.name!r} depends on the matrix, so it cannot be added up. "
            "Attach the adapters to a graph, and pass pipe.with_adapters(…).merged() to sf.adapters.extract."
        )
    return list(zip(layers, additive, strict=True))


def _scaled(patch: Additive, strength: float) -> Additive:
    bias = None if patch.bias is None else patch.bias.float() * strength
    return replace(patch, scale=patch.scale * strength, bias=bias)


def _concatenated(body: str, layer: _Layer) -> LowRank:
    patches = [patch for own in layer.patches.values() for patch in own]
    low: list[LowRank] = []
    for patch in patches:
        if not isinstance(patch, LowRank):
            raise ConfigError(
                f"combine: method='cat' joins LoRA alone, and {body} has another kind. Pass method='svd'."
            )
        made = patch.factors(layer.shape)
        low.append(LowRank(down=made.down, up=made.up, scale=made.scale, bias=patch.bias))
    return concatenated(low)


def _merged(
    layer: _Layer, method: Method, count: int, density: float, random: torch.Generator, rank: int | None
) -> Patch:
    """The merged difference of a layer: as matrices of a rank, or whole."""
    zero = torch.zeros(layer.shape)
    own = [layer.patches.get(number, []) for number in range(count)]
    weights = [torch.stack([patch.difference(zero) for patch in patches]).sum(0) for patches in own if patches]
    biases = [patch.bias for patches in own for patch in patches if patch.bias is not None]
    whole = _sum(weights, method, density, random)
    bias = _sum(biases, method, density, random) if biases else None
    if rank is None or len(layer.shape) < 2 or not whole.any():
        return Full(whole=whole, bias=bias)
    return low_rank(whole, rank, bias=bias)


def _sum(differences: Sequence[Tensor], method: Method, density: float, random: torch.Generator) -> Tensor:
    """One difference of several."""
    match method:
        case "ties":
            stacked = torch.stack([_trimmed(difference, density) for difference in differences])
            sign = torch.sign(stacked.sum(0))
            kept = stacked * (torch.sign(stacked) == sign)
            return kept.sum(0) / (kept != 0).sum(0).clamp_min(1)
        case "dare":
            kept = [d * (torch.rand(d.shape, generator=random) < density) / density for d in differences]
            return torch.stack(kept).sum(0)
        case _:
            return torch.stack([*differences]).sum(0)


def _trimmed(difference: Tensor, density: float) -> Tensor:
    """The difference with its largest numbers alone, a fraction `density` of them."""
    count = max(1, round(density * difference.numel()))
    sizes = difference.abs().flatten()
    kept = torch.zeros_like(sizes, dtype=torch.bool)
    kept[sizes.topk(count).indices] = True
    return difference * kept.reshape(difference.shape)
