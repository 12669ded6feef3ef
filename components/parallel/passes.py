"""The passes of a request, divided over processes. Each computes its own, and all get all predictions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...graph.errors import UnfitValue
from ..models.image_attention import ImageTokens
from ..types import Pass, RowSlice
from .processes import Processes

Compute = Callable[[Sequence[Sequence[Pass]]], Sequence[Sequence[Tensor]]]
"""The predictions for the passes of several requests."""
Unit = Literal["pass", "row"]
"""Whether passes stay whole, or are divided between their rows."""
SharesRows = Callable[[int], bool]
"""Whether the rows of the passes of a request may be computed apart."""


class Part(NamedTuple):
    """Some rows of a pass, from `start` to before `stop`, and the process that computes them."""

    request: int
    number: int
    start: int
    stop: int
    process: int


def parts_of(requests: Sequence[Sequence[Pass]], count: int, by_rows: SharesRows) -> list[Part]:
    """Divide the rows of all passes over processes, in order, as evenly as whole passes allow.

    count: the number of processes. by_rows: whether the passes of a request may be divided. Those with changes of
    layers, or with the memory of a step cache, stay whole, since these read all rows.
    """
    units: list[tuple[int, int, int, int]] = []
    for request, passes in enumerate(requests):
        for number, p in enumerate(passes):
            rows = len(p.latents)
            if by_rows(request) and not p.taps and not p.memories:
                units += [(request, number, row, row + 1) for row in range(rows)]
            else:
                units.append((request, number, 0, rows))
    total, before, found = sum(stop - start for *_, start, stop in units), 0, list[Part]()
    for request, number, start, stop in units:
        process = before * count // total
        before += stop - start
        last = found[-1] if found else None
        if last is not None and (last.request, last.number, last.process) == (request, number, process):
            found[-1] = last._replace(stop=stop)
        else:
            found.append(Part(request, number, start, stop, process))
    return found


def rows_of_pass(p: Pass, start: int, stop: int) -> Pass:
    """Some rows of a pass."""
    count = len(p.latents)
    if (start, stop) == (0, count):
        return p

    def cut(t: Tensor) -> Tensor:
        return t if len(t) == 1 else t[start:stop]

    def residuals(r: Mapping[str, tuple[Tensor, ...]]) -> RowSlice:
        return RowSlice(r.whole, r.first + start, stop - start) if isinstance(r, RowSlice) else RowSlice(
            r, start, stop - start
        )  # fmt: skip

    conditioning = p.conditioning
    return replace(
        p,
        latents=p.latents[start:stop],
        conditioning=conditioning if conditioning.rows == 1 else conditioning[start:stop],
        channels=tuple(map(cut, p.channels)),
        references=tuple(map(cut, p.references)),
        residuals=tuple(map(residuals, p.residuals)),
        images=tuple(ImageTokens(one.branch, tuple(map(cut, one.layers))) for one in p.images),
        row=p.row + start,
    )


class DividedPasses:
    """Divides the passes of requests over the processes of a mesh."""

    def __init__(self, processes: Processes, unit: Unit) -> None:
        self._processes, self._unit = processes, unit

    def predict(self, requests: Sequence[Sequence[Pass]], compute: Compute, by_rows: SharesRows) -> list[list[Tensor]]:
        """The predictions for the passes of several requests, of which this process computes its part."""
        group = self._processes.passes
        parts = parts_of(requests, group.size, lambda i: self._unit == "row" and by_rows(i))
        own = [part for part in parts if part.process == group.place]
        made = compute([
            [rows_of_pass(requests[part.request][part.number], part.start, part.stop)
             for part in own if part.request == request]
            for request in range(len(requests))
        ])  # fmt: skip
        mine = [t for predictions in made for t in predictions]  # parts are in the order of the requests
        every = self._gathered(requests, parts, mine)
        self._share_memories(requests, parts)
        found: list[list[list[Tensor]]] = [[[] for _ in passes] for passes in requests]
        for part, prediction in zip(parts, every, strict=True):
            found[part.request][part.number].append(prediction)
        return [[ts[0] if len(ts) == 1 else torch.cat(ts) for ts in of_request] for of_request in found]

    def _gathered(
        self, requests: Sequence[Sequence[Pass]], parts: Sequence[Part], mine: Sequence[Tensor]
    ) -> Iterator[Tensor]:
        """The predictions for all parts: one tensor is gathered, in which the parts of each process are in a row."""
        group = self._processes.passes
        shapes = [(part.stop - part.start, *requests[part.request][part.number].latents.shape[1:]) for part in parts]
        own = [shape for part, shape in zip(parts, shapes, strict=True) if part.process == group.place]
        for shape, t in zip(own, mine, strict=True):
            if t.shape != shape:
                raise UnfitValue(f"A prediction needs the shape {tuple(shape)} of its latents, got {tuple(t.shape)}.")
        counts = [0] * group.size
        offsets: list[int] = []
        for part, shape in zip(parts, shapes, strict=True):
            offsets.append(counts[part.process])
            counts[part.process] += torch.Size(shape).numel()
        device = requests[parts[0].request][parts[0].number].latents.device
        sent = torch.zeros(max(counts), device=device)
        if mine:
            sent[: counts[group.place]] = torch.cat([t.flatten().to(device) for t in mine])
        got = group.gather(sent)
        for part, shape, first in zip(parts, shapes, offsets, strict=True):
            p = requests[part.request][part.number]
            yield got[part.process][first : first + torch.Size(shape).numel()].view(shape).to(p.latents.device)

    def _share_memories(self, requests: Sequence[Sequence[Pass]], parts: Sequence[Part]) -> None:
        """Give all processes what each pass kept for step caches, so that all decide alike in the next step."""
        if not any(p.memories for passes in requests for p in passes):
            return
        group = self._processes.passes
        own = [[_kept(m) for m in requests[part.request][part.number].memories]
               for part in parts if part.process == group.place]  # fmt: skip
        every = group.gather_objects(own)
        counts = [iter(of_process) for of_process in every]
        for part in parts:
            kept, p = next(counts[part.process]), requests[part.request][part.number]
            if part.process != group.place:
                for memory, values in zip(p.memories, kept, strict=True):
                    vars(memory).update(_moved(values, p.latents.device))


_KEPT = ("after", "decision", "indicator", "skipped", "layers", "ratio")


def _kept(memory: Any) -> dict[str, Any]:  # any values of a memory
    return _moved({name: getattr(memory, name) for name in _KEPT}, torch.device("cpu"))


def _moved(value: Any, device: torch.device) -> Any:
    """A value with all its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: _moved(v, device) for k, v in value.items()}
    if isinstance(value, tuple):
        items = [_moved(v, device) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
