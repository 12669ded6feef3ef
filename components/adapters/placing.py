"""Find the matrices of models that patches change, and account for every patch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ...graph.errors import ConfigError
from ..storage.fits import shown_names
from .names import DENOISERS, ModelNames, Target, readings, states_component
from .patch_set import NamedPatch, PatchSet
from .patches import Patch
from .widening import columns_of


@dataclass(frozen=True)
class Placed:
    """A patch, and the matrix of a model that it changes.

    body: the name in the file, for errors. columns: those that the matrix has with the patch, where that widens it.
    """

    target: Target
    patch: Patch
    body: str = ""
    columns: int = 0


@dataclass
class Placement:
    """The places of the patches of an adapter, by component. Each patch is in one of the lists.

    absent: names of patches for a component that the graph does not have. empty: names of patches that add nothing.
    """

    placed: dict[str, list[Placed]] = field(default_factory=dict[str, list[Placed]])
    absent: list[str] = field(default_factory=list[str])
    empty: list[str] = field(default_factory=list[str])


def place(content: PatchSet, models: Mapping[str, ModelNames], name: str) -> Placement:
    """Find the matrix of each patch.

    Args:
        content: the patches of an adapter.
        models: the names of each model of the graph, by component.
        name: that of the adapter, for errors.

    Raises:
        ConfigError: patches for matrices that the models do not have, or of other shapes; all of them.
    """
    found = Placement()
    unknown: list[str] = []
    misshapen: list[str] = []
    for named in content.patches:
        if named.patch.is_empty:
            found.empty.append(named.body)
            continue
        candidates = list(_candidates(named.body, models))
        fitting = [(c, t) for c, t in candidates if fits(named.patch, models[c].source_shape(t))]
        wider = [(c, t, n) for c, t in candidates if (n := columns_of(named.patch, models[c], t))]
        if fitting or wider:
            component, target, columns = (*fitting[0], 0) if fitting else wider[0]
            found.placed.setdefault(component, []).append(Placed(target, named.patch, named.body, columns))
        elif candidates:
            component, target = candidates[0]
            misshapen.append(_shape_problem(named, component, models[component].source_shape(target)))
        elif _is_for_absent_model(named.body, models):
            found.absent.append(named.body)
        else:
            unknown.append(named.body)
    if unknown or misshapen:
        raise ConfigError(_problems(f"{name!r} ({content.source})", models, unknown, misshapen))
    if not found.placed:
        have = ", ".join(models) or "no model that adapters change"
        raise ConfigError(f"The adapter {name!r} ({content.source}) changes nothing of this graph, which has {have}.")
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


def _problems(adapter: str, models: Mapping[str, ModelNames], unknown: Sequence[str], misshapen: Sequence[str]) -> str:
    parts: list[str] = []
    if unknown:
        parts.append(
            f"{len(unknown)} of its names are in no model of the graph ({', '.join(models)}): {shown_names(unknown)}."
        )
    if misshapen:
        parts.append(f"{len(misshapen)} of its patches have other shapes: {'; '.join(misshapen[:3])}.")
    return f"The adapter {adapter} does not fit: {' '.join(parts)} Use an adapter that was trained on this family."
