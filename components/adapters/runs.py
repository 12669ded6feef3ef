"""The model of a run with adapters, and one model for the rows of several runs whose adapters differ."""

import threading
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ...registry import counted
from ..schedulers.schedule import Step
from .adapted import Adapted, Attached, attached_to
from .attach import patches_of
from .layers import Strengths

M = TypeVar("M", bound=nn.Module)


class AdaptedRows(NamedTuple):
    """The rows of one pass in a forward: the adapters of its run, its step, and the number of its rows."""

    adapted: Adapted | None
    step: Step
    rows: int


class RunStrengths:
    """The strengths of a view that belongs to one run, or to runs side by side. A forward has them for itself."""

    def __init__(self, adapted: Adapted, strengths: Mapping[str, Strengths]) -> None:
        self._lock = threading.Lock()
        self._columns = tuple(adapted.placed)
        self._shared = {id(one): (path, one) for path, one in strengths.items()}.values()

    @contextmanager
    def chosen(self, passes: Sequence[AdaptedRows]) -> Generator[Hashable]:
        """Set the strengths for one forward of several passes, and yield them. Other threads wait until it has ended.

        Args:
            passes: the rows of each pass are the pictures of the prompts of its run, in the order of the prompts.

        Raises:
            ValueError: a number of rows that is no multiple of the number of prompts.
        """
        with self._lock:
            tables = [self._table(passes, path) for path, _ in self._shared]
            for (_, strengths), table in zip(self._shared, tables, strict=True):
                strengths.values = table
            yield self._columns, *((*table.shape, *table.flatten().tolist()) for table in tables)

    def _table(self, passes: Sequence[AdaptedRows], path: str) -> Tensor:
        first = passes[0]
        if all(p.adapted is first.adapted and p.step == first.step for p in passes):
            table = self._of(first, path)
            if table.ndim == 1:
                return table
        return torch.cat([_for_rows(self._of(p, path), p.rows) for p in passes])

    def _of(self, p: AdaptedRows, path: str) -> Tensor:
        if p.adapted is None:
            return torch.zeros(len(self._columns))
        return p.adapted.strengths(p.step, path, self._columns)


def _for_rows(table: Tensor, rows: int) -> Tensor:
    """A table (files,) or (prompts, files) as (rows, files)."""
    if table.ndim == 1:
        return table.expand(rows, -1)
    prompts = len(table)
    if rows % prompts:
        raise ValueError(
            f"adapters= has adapters for {counted(prompts, 'prompt')}, and a pass has {counted(rows, 'row')}. "
            "Pass one list for each prompt."
        )
    return table.repeat_interleave(rows // prompts, 0)


@dataclass(frozen=True, eq=False)
class RunModel(Generic[M]):
    """The model of one run.

    base: the model without adapters. view: the model with the adapters of the run. attached: these; None without any.
    strengths: chooses their strengths; None where they differ neither between steps nor between rows.
    """

    base: M
    view: M
    attached: Attached | None = None
    strengths: RunStrengths | None = None

    @property
    def adapted(self) -> Adapted | None:
        """The adapters of the run."""
        return self.attached.adapted if self.attached is not None else None

    @property
    def wide_keys(self) -> Mapping[str, Any]:
        """The keys of the config that differ with the adapters: models of unlike ones read unlike inputs."""
        return self.attached.wide_keys if self.attached is not None else {}


def for_run(model: M) -> RunModel[M]:
    """A model for one run: where its adapters' strengths differ between steps or rows, a view with its own strengths.

    Args:
        model: any model, with adapters or without.
    """
    attached = attached_to(model)
    if attached is None:
        return RunModel(model, model)
    base = cast("M", attached.model)
    if not attached.adapted.varies:
        return RunModel(base, model, attached)
    strengths = attached.strengths()
    return RunModel(base, cast("M", attached.view(strengths)), attached, RunStrengths(attached.adapted, strengths))


def for_runs(models: Sequence[RunModel[M]]) -> RunModel[M]:
    """One model for rows of several runs: it has the adapters of all, and each row has the strengths of its own run.

    Args:
        models: of the runs, of one base. At least one has adapters, and all have equal `wide_keys`.
    """
    adapted = [model.adapted for model in models if model.adapted is not None]
    placed = {content: items for one in adapted for content, items in one.placed.items()}
    joined = replace(adapted[0], rows=tuple(row for one in adapted for row in one.rows), placed=placed)
    patches = patches_of(models[0].base, list(placed.values()))
    attached = Attached(models[0].base, patches, joined)
    strengths = attached.strengths()
    view = cast("M", attached.view(strengths))
    return RunModel(models[0].base, view, attached, RunStrengths(joined, strengths))
