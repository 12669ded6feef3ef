"""Attach adapters to models: find the matrices, account for every patch, and make the view."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ..models.views import Replacement, view
from ..storage.fits import shown_names
from .adapter import Adapter, NamedPatch
from .layers import LayerPatches, Strengths, layer_of, patched, weight_of
from .names import DENOISERS, ModelNames, Target, readings, states_component
from .patches import Patch
from .weight_patches import Scaling

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Placed:
    """A patch, and the matrix of a model that it changes. body: the name in the file, for errors."""

    target: Target
    patch: Patch
    body: str = ""


@dataclass
class Placement:
    """Where the patches of an adapter go, by component; every patch of it is in one of the lists.

    absent: names of patches for a component that the graph does not have. empty: names of patches that add nothing.
    """

    placed: dict[str, list[Placed]] = field(default_factory=dict[str, list[Placed]])
    absent: list[str] = field(default_factory=list[str])
    empty: list[str] = field(default_factory=list[str])


def place(adapter: Adapter, models: Mapping[str, ModelNames]) -> Placement:
    """Find the matrix of each patch.

    Args:
        adapter: the adapter.
        models: the names of each model of the graph, by component.

    Raises:
        ConfigError: patches for matrices that the models do not have, or of other shapes; all of them.
    """
    found = Placement()
    unknown: list[str] = []
    misshapen: list[str] = []
    for named in adapter.patches:
        if named.patch.is_empty:
            found.empty.append(named.body)
            continue
        candidates = list(_candidates(named.body, models))
        fitting = [(c, t) for c, t in candidates if fits(named.patch, models[c].source_shape(t))]
        if fitting:
            component, target = fitting[0]
            found.placed.setdefault(component, []).append(Placed(target, named.patch, named.body))
        elif candidates:
            component, target = candidates[0]
            misshapen.append(_shape_problem(named, component, models[component].source_shape(target)))
        elif _is_for_absent_model(named.body, models):
            found.absent.append(named.body)
        else:
            unknown.append(named.body)
    if unknown or misshapen:
        raise ConfigError(_problems(adapter, models, unknown, misshapen))
    if not found.placed:
        have = ", ".join(models) or "no model that adapters change"
        raise ConfigError(
            f"The adapter {adapter.name!r} ({adapter.source}) changes nothing of this graph, which has {have}."
        )
    return found


def _candidates(body: str, models: Mapping[str, ModelNames]) -> Iterator[tuple[str, Target]]:
    """The matrices that a name may mean, the likeliest first. Text encoders are numbered differently by trainers."""
    for kind, rest in readings(body):
        if kind == "denoiser":
            order = [name for name in models if name in DENOISERS]
        else:
            order = sorted((name for name in models if name not in DENOISERS), key=lambda name: name != kind)
        for component in order:
            if (target := models[component].targets.get(rest)) is not None:
                yield component, target


def _is_for_absent_model(body: str, models: Mapping[str, ModelNames]) -> bool:
    """Whether a name states a component that the graph does not have."""
    stated = states_component(body)
    if stated is None:
        return False
    return not any(n in DENOISERS for n in models) if stated == "denoiser" else stated not in models


def fits(patch: Patch, shape: torch.Size) -> bool:
    """Whether a patch changes a matrix of this shape. A 1x1 convolution and a linear layer are the same."""
    return _plain(patch.shape(shape)) == _plain(shape)


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _shape_problem(named: NamedPatch, component: str, shape: torch.Size) -> str:
    own = _sizes(named.patch.shape(shape))
    return f"{named.body} is for a matrix of {own}, and that of the {component} is {_sizes(shape)}"


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _problems(
    adapter: Adapter, models: Mapping[str, ModelNames], unknown: Sequence[str], misshapen: Sequence[str]
) -> str:
    parts: list[str] = []
    if unknown:
        parts.append(
            f"{len(unknown)} of its names are in no model of the graph ({', '.join(models)}): {shown_names(unknown)}."
        )
    if misshapen:
        parts.append(f"{len(misshapen)} of its patches have other shapes: {'; '.join(misshapen[:3])}.")
    return (
        f"The adapter {adapter.name!r} ({adapter.source}) does not fit: {' '.join(parts)} "
        "Use an adapter that was trained on this family."
    )


# ------------------------------------------------------------------------------------------------------- the view
Column = tuple[tuple[Placed, ...], str]


@dataclass(frozen=True, eq=False)
class Plan:
    """The patched layers of one model: made once for a set of adapters, and shared by all its views.

    layers: by path. columns: how many columns of strengths there are.
    """

    layers: Mapping[str, LayerPatches]
    columns: int


def plan_patches(model: nn.Module, placed: Sequence[Sequence[Placed]]) -> Plan:
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
            except RuntimeError as error:  # of torch, for shapes
                raise ConfigError(f"{item.body}: the shapes of its tensors do not go together.") from error
    for path, parts in low.items():
        own = layers.setdefault(path, LayerPatches())
        own.down = torch.cat([down for _, down, _, _ in parts]).to(dtype)
        own.up = torch.cat([up for _, _, up, _ in parts], dim=1).to(dtype)
        counts = [len(down) for _, down, _, _ in parts]
        own.columns = torch.cat([torch.full((n,), c) for n, (c, *_) in zip(counts, parts, strict=True)])
        own.scales = torch.cat([torch.full((n,), s) for n, (*_, s) in zip(counts, parts, strict=True)])
    return Plan(layers, len(placed))


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
    source = torch.Size((sum(sizes), *first[1:]))
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
            layers.setdefault(path, LayerPatches()).whole.append((torch.tensor([column]), extra))


def _difference(item: Placed, modules: Sequence[nn.Module], sizes: Sequence[int]) -> Sequence[Tensor]:
    """The differences of all layers that hold rows of the matrix."""
    weights = [weight_of(module) for module in modules]
    whole = torch.cat(weights)
    how = item.target.how
    source = whole.T if how == "transposed" else _swapped(whole) if how == "halves swapped" else whole
    made = item.patch.difference(source.reshape(item.patch.shape(source.shape))).reshape(source.shape)
    if not all(torch.isfinite(extreme) for extreme in torch.aminmax(made)):
        raise ConfigError(f"{item.body}: changes its matrix by NaN or infinite numbers. Use another file.")
    made = made.T if how == "transposed" else _swapped(made) if how == "halves swapped" else made
    return [piece.contiguous() for piece in made.split(list(sizes))]


def _bias_pieces(item: Placed, modules: Sequence[nn.Module], sizes: Sequence[int]) -> Sequence[Tensor | None]:
    bias = item.patch.bias
    if isinstance(item.patch, Scaling) and item.patch.with_bias:
        own = [b.detach().float() for module in modules if isinstance(b := getattr(module, "bias", None), Tensor)]
        if len(own) == len(modules):
            bias = torch.cat(own) * item.patch.factor
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


def patched_view(model: M, plan: Plan, strengths: Strengths) -> M:
    """A view of the model with patches at these strengths."""
    changes: dict[str, Replacement] = {path: patched(patches, strengths) for path, patches in plan.layers.items()}
    return view(model, changes)
