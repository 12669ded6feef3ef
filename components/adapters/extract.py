"""Make an adapter of the differences between a trained model and its base."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ...graph.fields import Lazy
from ..storage.fits import shown_names
from .adapted import Adapted
from .adapter import Adapter
from .known_models import names_in
from .layers import weight_of
from .names import ModelNames
from .patch_set import NamedPatch, PatchSet
from .patches import Full, LowRank, Patch, flat

Rest = Literal["keep", "drop"]


def extract_models(
    tuned: Mapping[str, Any],  # models of ours or their handles, by component
    base: Mapping[str, Any],
    rank: int,
    *,
    threshold: float = 0.0,
    rest: Rest = "keep",
    name: str = "extracted",
) -> Adapter:
    """Make an adapter of the differences between models, by truncated SVD (Eckart and Young 1936).

    Args:
        tuned: the trained models, by component.
        base: those that they were trained from. Components of only one side are left out.
        rank: the largest rank of a matrix. A convolution is a matrix of (out, in * height * width).
        threshold: the error that is allowed, as a fraction of each difference's norm. Matrices take the smallest rank
            within it, up to `rank`; 0 takes `rank`.
        rest: "keep" or "drop" differences of biases and norms, which no product of thin matrices expresses. Kept
            ones stay whole.
        name: the adapter's name.

    Raises:
        ConfigError: no component on both sides, models of other classes or shapes, differences of token tables, or no
            difference at all.
    """
    if type(rank) is not int or rank < 1:
        raise ConfigError(f"extract: needs a rank of 1 or more. Got {rank!r}.")
    if not 0 <= threshold < 1:
        raise ConfigError(f"extract: needs a threshold from 0 to below 1. Got {threshold!r}.")
    if rest not in ("keep", "drop"):
        raise ConfigError(f"extract: needs rest='keep' or rest='drop'. Got {rest!r}.")
    names = {component: known for component, known in names_in(base).items() if component in names_in(tuned)}
    if not names:
        raise ConfigError(
            f"extract: the two have no model in common. One has {', '.join(tuned) or 'none'}, the other "
            f"{', '.join(base) or 'none'}."
        )
    patches: list[NamedPatch] = []
    for component, known in names.items():
        _check(component, names_in({component: tuned[component]})[component], known)
        one, other = (_loaded(side[component]) for side in (tuned, base))
        for path in known.shapes:
            for kind, patch in _patches(path, one, other, rank, threshold, rest):
                patches.append(NamedPatch(f"{component}.{path}", kind, patch))
    if not patches:
        raise ConfigError("extract: the two models are equal, so there is nothing to extract.")
    return Adapter(name, PatchSet(name, tuple(patches)))


def _loaded(model: Any) -> nn.Module:
    if isinstance(model, Adapted):
        raise ConfigError("extract: one of the graphs has adapters. Pass its merged(): the weights then have them.")
    return cast("nn.Module", model.load() if isinstance(model, Lazy) else model)


def _check(component: str, tuned: ModelNames, base: ModelNames) -> None:
    """ConfigError for models whose matrices are not the same."""
    if tuned.class_name != base.class_name:
        raise ConfigError(
            f"extract: the {component} of one is {tuned.class_name}, that of the other {base.class_name}."
        )
    if lacking := sorted(set(tuned.shapes) ^ set(base.shapes)):
        raise ConfigError(f"extract: {component}: only one of the models has {shown_names(lacking)}.")
    for path, shape in base.shapes.items():
        if (own := tuned.shapes[path]) != shape:
            sizes = " and ".join("x".join(map(str, s)) for s in (own, shape))
            raise ConfigError(f"extract: {component}.{path}: the models have {sizes}. Pass the model that was trained.")


def _patches(
    path: str, tuned: nn.Module, base: nn.Module, rank: int, threshold: float, rest: Rest
) -> Iterator[tuple[str, Patch]]:
    """The patch of a layer; none where both layers are equal."""
    one, other = tuned.get_submodule(path), base.get_submodule(path)
    whole = weight_of(one).cpu() - weight_of(other).cpu()
    bias = _bias(one, other) if rest == "keep" else None
    if not torch.isfinite(whole).all():
        raise ConfigError(f"extract: {path} differs by NaN or infinite numbers. Use another checkpoint.")
    if isinstance(other, nn.Linear | nn.Conv2d):
        if whole.any():
            yield "LoRA", low_rank(whole, rank, threshold, bias=bias)
        elif bias is not None:
            yield "full", Full(whole=None, bias=bias)
    elif rest == "keep" and (whole.any() or bias is not None):
        if isinstance(other, nn.Embedding):
            raise ConfigError(
                f"extract: the tables of {path} differ, and no adapter changes a table. Pass rest='drop' to drop it."
            )
        yield "full", Full(whole=whole if whole.any() else None, bias=bias)


def _bias(tuned: nn.Module, base: nn.Module) -> Tensor | None:
    one, other = (getattr(layer, "bias", None) for layer in (tuned, base))
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return None
    made = one.detach().float().cpu() - other.detach().float().cpu()
    return made if made.any() else None


def low_rank(whole: Tensor, rank: int, threshold: float = 0.0, *, bias: Tensor | None = None) -> LowRank:
    """The nearest patch of a rank to a difference. Both factors have the same norms.

    Args:
        whole: (out, in[, height, width]).
        rank: the largest rank.
        threshold: the error that is allowed, as a fraction of the norm of `whole`; see `extract_models`.
        bias: the difference of the bias.
    """
    left, values, right = torch.linalg.svd(flat(whole), full_matrices=False)
    count = min(rank, len(values))
    if threshold:
        left_out = values.square().flip(0).cumsum(0).flip(0).sqrt()  # the error at rank 0, 1, …
        count = min(count, max(1, int((left_out > threshold * left_out[0]).sum())))
    root = values[:count].sqrt()
    down = (root[:, None] * right[:count]).reshape(count, *whole.shape[1:])
    up = (left[:, :count] * root).reshape(len(whole), count, *[1] * (whole.ndim - 2))
    return LowRank(down=down.contiguous(), up=up.contiguous(), bias=bias)
