"""The denoiser as a function of passes, for every family: the one place where passes share a forward.

Runs side by side share forwards too: `Running.shared` collects their requests, and the denoiser of one run answers all.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ...components.adapters.adapted import Adapted
from ...components.adapters.runs import AdaptedRows, RunStrengths, for_run, for_runs
from ...components.memory.tensors import device_of
from ...components.models.constants import Constants
from ...components.taps.memory import UndecidedPasses
from ...components.taps.place import Forward, PassRows
from ...components.types import Pass, Predict
from ...graph import Running
from .constants import RunConstants
from .image_views import ImageViews
from .passes import Prepared, group_key, grouped

M = TypeVar("M", bound=nn.Module)
Compute = Callable[[M, Sequence[Pass], Constants], Tensor]
"""The prediction of a model for passes that go together: (rows of all passes, channels, height, width).

It takes values that no step changes from the constants. The conditionings of the passes, their guidance scales, the
shapes of their latents and references, and the strengths of adapters are equal in all calls with the same constants.

Equal ones compute the same: runs side by side whose denoisers have equal ones share forwards.
"""

Answer = Callable[[Sequence["Request[M]"]], Sequence[Sequence[Tensor]]]
"""The predictions for the passes of each request."""

Batching = Literal["together", "apart"]
"""`"together"` runs passes of equal shapes and taps in one forward, also those of runs side by side; `"apart"` runs
each by itself, which is slower on most machines and has a lower peak of memory."""

_MOST_JOINED = 4  # models with the adapters of several runs


def make_predict(
    model: M, compute: Compute[M], batching: Batching, running: Running, guidance: float | None = None
) -> Predict:
    """The denoiser as a function of passes.

    Passes with taps go through a view of the model. Passes may be on another device than the model: the predictions
    are on the device of the passes, in float32. guidance: the scale of passes that have none.
    """
    denoiser = Denoiser(model, compute, running, guidance)
    return denoiser.predict if batching == "together" else denoiser.predict_apart


class DividesPasses(Protocol):
    """The other processes of a model that several compute. It is imported where there are some."""

    def predict(
        self,
        requests: Sequence[Sequence[Pass]],
        compute: Callable[[Sequence[Sequence[Pass]]], Sequence[Sequence[Tensor]]],
        by_rows: Callable[[int], bool],
        first: bool,
    ) -> Sequence[Sequence[Tensor]]:
        """The predictions for the passes of each request. compute: those of some of them, in this process.

        by_rows: whether the rows of the passes of a request may be computed apart. first: whether a run asks for the
        first time.
        """
        ...


@dataclass(frozen=True, eq=False)
class Request(Generic[M]):
    """The passes for which a run needs predictions at one moment. memory: of the changes of layers in this call."""

    denoiser: "Denoiser[M]"
    passes: Sequence[Pass]
    memory: dict[Any, Any] = field(default_factory=dict[Any, Any])  # Any: values that changes write


class _RequestedPass(NamedTuple, Generic[M]):
    """One pass of a request. Passes with equal keys share a forward."""

    request: Request[M]
    number: int
    key: Hashable


class Denoiser(Generic[M]):
    """The denoiser of one run. It answers the requests of other runs too, whose denoisers have an equal `key`."""

    def __init__(self, model: M, compute: Compute[M], running: Running, guidance: float | None) -> None:
        self._model = for_run(model)
        self._compute, self._running, self._guidance = compute, running, guidance
        self._views = ImageViews(self._model.view)  # as long-lived as the function
        self._prepare = Prepared(torch.device(device_of(model)))
        self._constants = RunConstants()
        self._shared: DividesPasses | None = getattr(model, "several_processes", None)
        self._asked = False
        self._wide = tuple(self._model.wide_keys.items())
        self._joined: dict[frozenset[Adapted | None], tuple[ImageViews[M], RunStrengths | None]] = {}
        self.key: Hashable = id(self._model.base), compute

    def predict(self, passes: Sequence[Pass]) -> Sequence[Tensor]:
        """The predictions for passes. Those that can share a forward do, also with passes of runs side by side."""
        return self._running.shared(self.key, Request(self, passes), self.answer)

    def predict_apart(self, passes: Sequence[Pass]) -> Sequence[Tensor]:
        """The predictions for passes, each by a forward of its own."""
        return self._divided([Request(self, passes)], self._answer_apart)[0]

    def answer(self, requests: Sequence[Request[M]]) -> Sequence[Sequence[Tensor]]:
        """The predictions for the passes of each request."""
        return self._divided(requests, self._answer)

    def _divided(self, requests: Sequence[Request[M]], answer: "Answer[M]") -> Sequence[Sequence[Tensor]]:
        """The predictions for all passes, of which this process may compute a part."""
        if self._shared is None:
            return answer(requests)
        first = not all(request.denoiser._asked for request in requests)
        for request in requests:
            request.denoiser._asked = True

        def compute(parts: Sequence[Sequence[Pass]]) -> Sequence[Sequence[Tensor]]:
            return answer([replace(one, passes=passes) for one, passes in zip(requests, parts, strict=True)])

        def by_rows(number: int) -> bool:
            adapted = requests[number].denoiser._model.adapted
            return adapted is None or len(adapted.rows) == 1

        return self._shared.predict([request.passes for request in requests], compute, by_rows, first)

    def _answer_apart(self, requests: Sequence[Request[M]]) -> Sequence[Sequence[Tensor]]:
        return [[self._answer([replace(one, passes=[p])])[0][0] for p in one.passes] for one in requests]

    def _answer(self, requests: Sequence[Request[M]]) -> Sequence[Sequence[Tensor]]:
        requested = [one for number, request in enumerate(requests) for one in _passes_of(request, number)]
        predictions: dict[tuple[int, int], Tensor] = {}
        for group in grouped([one.key for one in requested]):
            if len(requests) == 1:  # else the runs were checked before, and one that stops does not stop the others
                self._running.check()
            together = [requested[i] for i in group]
            for one, prediction in self._forwards(together):
                predictions[id(one.request), one.number] = prediction
        return [[predictions[id(request), i] for i in range(len(request.passes))] for request in requests]

    def _forwards(self, requested: Sequence[_RequestedPass[M]]) -> Sequence[tuple[_RequestedPass[M], Tensor]]:
        """One forward for these passes, or several where they decide in it to skip unlike layers."""
        try:
            return list(zip(requested, self._forward(requested), strict=True))
        except UndecidedPasses:
            keys = [group_key(one.request.passes[one.number]) for one in requested]
            return [made for group in grouped(keys) for made in self._forwards([requested[i] for i in group])]

    def _forward(self, requested: Sequence[_RequestedPass[M]]) -> Sequence[Tensor]:
        """One forward of the model for passes of one or several runs."""
        denoisers = [one.request.denoiser for one in requested]
        together = [d._prepared(one.request.passes[one.number]) for d, one in zip(denoisers, requested, strict=True)]
        rows = [len(p.latents) for p in together]
        views, strengths = self._views_of(denoisers)
        adapted = [d._model.adapted for d in denoisers]
        chosen = [AdaptedRows(a, p.step, n) for a, p, n in zip(adapted, together, rows, strict=True)]
        height, width = together[0].latents.shape[2:]
        size, forward = (height, width), _forward_of(together, requested[0].request.memory)
        with (
            nullcontext() if strengths is None else strengths.chosen(chosen) as numbers,
            views.view(together, size) as tapped,
            tapped.view(together[0].taps, size, forward) as view,
        ):
            predictions = self._compute(view, together, self._constants.of(together, numbers)).float().split(rows)
        return [
            t.to(one.request.passes[one.number].latents.device) for t, one in zip(predictions, requested, strict=True)
        ]

    def _prepared(self, p: Pass) -> Pass:
        """The pass as the model reads it: on its device, with rows and a guidance scale of its own."""
        p = self._prepare.of(p)
        return p if self._guidance is None or p.guidance is not None else replace(p, guidance=self._guidance)

    def _views_of(self, denoisers: "Sequence[Denoiser[M]]") -> tuple[ImageViews[M], RunStrengths | None]:
        """The views of the model with the adapters of these runs, and the strengths of its rows."""
        first, adapted = denoisers[0], frozenset(d._model.adapted for d in denoisers)
        if len(adapted) == 1:
            return first._views, first._model.strengths
        for known, found in self._joined.items():
            if adapted <= known:  # as when some of the runs have ended; the others have no strength in any row
                return found
        while len(self._joined) >= _MOST_JOINED:
            del self._joined[next(iter(self._joined))]
        model = for_runs([d._model for d in {d._model.adapted: d for d in denoisers}.values()])
        self._joined[adapted] = ImageViews(model.view), model.strengths
        return self._joined[adapted]


def _passes_of(request: Request[M], number: int) -> Sequence[_RequestedPass[M]]:
    """The passes of a request. Those with taps that read the step share forwards with no pass of other runs."""
    wide, guided = request.denoiser._wide, request.denoiser._guidance is not None
    keys = [
        (group_key(p), p.guidance is not None or guided, wide, number if not p.taps.per_pass else 0)
        for p in request.passes
    ]
    return [_RequestedPass(request, i, key) for i, key in enumerate(keys)]


def _forward_of(passes: Sequence[Pass], memory: dict[Any, Any]) -> Forward:
    ends = list(accumulate(len(p.latents) for p in passes))
    rows = (
        PassRows(p.role, end - len(p.latents), end, p.step, p.memories) for p, end in zip(passes, ends, strict=True)
    )
    return Forward(tuple(rows), passes[0].step, memory)
