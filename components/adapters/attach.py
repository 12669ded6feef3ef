"""Attach patches to models: the patched layers, and views that have them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ...graph.failures import allocation_in
from ..models.views import Replacement, view
from .layers import LayerPatches, Strengths, layer_of, patched, weight_of
from .names import ModelNames
from .placing import Placed
from .weight_patches import Scaling
from .widening import wide, wide_shape

M = TypeVar("M", bound=nn.Module)


class ModelPatches(nn.Module):
    """The patches of one model's layers: made once for a set of adapters, and shared by all its views.

    layers: by path.
    """

    def __init__(self, layers: Mapping[str, LayerPatches]) -> None:
        super().__init__()
        self._paths = tuple(layers)
        self._each = nn.ModuleList(layers.values())

    @property
    def layers(self) -> Mapping[str, LayerPatches]:
        """The patches of each layer, by its path."""
        return dict(zip(self._paths, cast("Iterable[LayerPatches]", self._each), strict=True))


def numbers_of(placed: Iterable[Placed], names: ModelNames) -> int:
    """The count of the numbers of `patches_of`, by shapes alone.

    Args:
        placed: the patches of all adapters.
        names: the shapes of the model's matrices.
    """
    found = 0
    for item in placed:
        shape = wide_shape(names.source_shape(item.target), item.columns)
        factors = None if item.target.how == "transposed" else item.patch.factors(shape)
        if factors is None:
            found += shape.numel()
        else:
            found += factors.up.numel() + len(item.target.layers) * factors.down.numel()
    return found


def patches_of(model: nn.Module, placed: Sequence[Sequence[Placed]]) -> ModelPatches:
    """Prepare the patches of a model's layers.

    Args:
        model: the loaded model; its weights are read for kinds whose difference depends on them.
        placed: for each column (an adapter) its patches.
    """
    dtype = _compute_dtype(model)
    low: dict[str, list[tuple[int, Tensor, Tensor, float]]] = {}
    layers: dict[str, LayerPatches] = {}
    for column, patches in enumerate(placed):
        for item in patches:
            try:
                _add(model, item, column, low, layers, dtype)
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or allocation_in(error) is not None:
                    raise
                reason = str(error).strip().partition("\n")[0]
                raise ConfigError(
                    f"{item.body}: its change cannot be computed ({reason}). Use another file."
                ) from error
    for path, parts in low.items():
        own = layers.setdefault(path, LayerPatches())
        columns = max(down.shape[1] for _, down, _, _ in parts)
        own.down = torch.cat([wide(down, columns) for _, down, _, _ in parts]).to(dtype)
        own.up = torch.cat([up for _, _, up, _ in parts], dim=1).to(dtype)
        _check_size(path, own.down, own.up)
        counts = [len(down) for _, down, _, _ in parts]
        own.columns = torch.cat([torch.full((n,), c) for n, (c, *_) in zip(counts, parts, strict=True)])
        own.scales = torch.cat([torch.full((n,), s) for n, (*_, s) in zip(counts, parts, strict=True)])
    return ModelPatches(layers)


def _add(
    model: nn.Module,
    item: Placed,
    column: int,
    low: dict[str, list[tuple[int, Tensor, Tensor, float]]],
    layers: dict[str, LayerPatches],
    dtype: torch.dtype,
) -> None:
    paths = item.target.layers
    modules = [model.get_submodule(path) for path in paths]
    sizes = [_out(module) for module in modules]
    bias = _bias_pieces(item, modules, sizes)
    first = _shape_of(modules[0])
    source = wide_shape(torch.Size((sum(sizes), *first[1:])), item.columns)
    factors = None if item.target.how == "transposed" else item.patch.factors(source)
    if factors is not None:
        up = _swapped(factors.up) if item.target.how == "halves swapped" else factors.up
        for path, piece in zip(paths, up.split(sizes), strict=True):
            low.setdefault(path, []).append((column, factors.down, piece, factors.scale))
        pieces: list[Tensor | None] = [None] * len(paths)
    else:
        pieces = list(_difference(item, modules, sizes))
    for path, module, piece, added in zip(paths, modules, pieces, bias, strict=True):
        if piece is not None or added is not None:
            extra = layer_of(module, piece, added, dtype)
            layers.setdefault(path, LayerPatches()).add(column, extra)


def _check_size(path: str, down: Tensor, up: Tensor) -> None:
    """ConfigError for factors that are infinite in their dtype, or whose product may be infinite in float32."""
    one, other = (float(part.float().abs().amax()) if part.numel() else 0.0 for part in (down, up))
    if not one * other * len(down) <= torch.finfo(torch.float32).max:
        dtype = str(down.dtype).removeprefix("torch.")
        raise ConfigError(
            f"{path}: the factors of its adapters have numbers up to {one:.1e} and {other:.1e} in {dtype}, and their "
            "product is infinite. Use another file, or a model in float32."
        )


def _difference(item: Placed, modules: Sequence[nn.Module], sizes: Sequence[int]) -> Sequence[Tensor]:
    """The differences of all layers that hold rows of the matrix."""
    weights = [weight_of(module) for module in modules]
    whole = wide(torch.cat(weights), item.columns)
    how = item.target.how
    source = whole.T if how == "transposed" else _swapped(whole) if how == "halves swapped" else whole
    patch = item.patch.to(source.device)
    made = patch.difference(source.reshape(patch.shape(source.shape))).reshape(source.shape)
    if not all(torch.isfinite(extreme) for extreme in torch.aminmax(made)):
        raise ConfigError(f"{item.body}: changes its matrix by NaN or infinite numbers. Use another file.")
    made = made.T if how == "transposed" else _swapped(made) if how == "halves swapped" else made
    return [piece.contiguous() for piece in made.split(list(sizes))]


def _bias_pieces(item: Placed, modules: Sequence[nn.Module], sizes: Sequence[int]) -> Sequence[Tensor | None]:
    bias = item.patch.bias
    if isinstance(item.patch, Scaling) and item.patch.with_bias:
        own = [b.detach().float() for module in modules if isinstance(b := getattr(module, "bias", None), Tensor)]
        if len(own) == len(modules):
            bias = torch.cat(own) * item.patch.factor.to(own[0].device)
    if bias is None:
        return [None] * len(modules)
    return (_swapped(bias) if item.target.how == "halves swapped" else bias).float().split(list(sizes))


def _swapped(whole: Tensor) -> Tensor:
    first, second = whole.chunk(2)
    return torch.cat([second, first])


def _shape_of(module: Any) -> torch.Size:  # a layer, quantized or not
    if isinstance(module, nn.Linear):
        return torch.Size((module.out_features, module.in_features))
    if isinstance(module, nn.Conv2d):
        return torch.Size((module.out_channels, module.in_channels // module.groups, *module.kernel_size))
    return module.weight.shape


def _out(module: nn.Module) -> int:
    return _shape_of(module)[0]


def _compute_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point() and p.itemsize > 1), torch.float32)


def patched_view(model: M, patches: ModelPatches, strengths: Mapping[str, Strengths]) -> M:
    """A view of the model with patches at these strengths, by the paths of the layers."""
    changes: dict[str, Replacement] = {path: patched(own, strengths[path]) for path, own in patches.layers.items()}
    return view(model, changes)
