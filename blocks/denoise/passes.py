"""Passes that share a forward of the denoiser: the one place that groups them, for every family."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ...components.adapters.adapted import for_run
from ...components.conditioning import Conditioning
from ...components.memory.tensors import device_of
from ...components.schedulers.schedule import Schedule, Step
from ...components.taps.place import Forward, PassRows
from ...components.types import Pass, Predict, RowSlice
from ...graph import Running
from ...graph.errors import UnfitValue
from ...registry import counted
from .image_views import ImageViews

M = TypeVar("M", bound=nn.Module)
Compute = Callable[[M, Sequence[Pass]], Tensor]
"""The prediction of a model for passes that go together: (rows of all passes, channels, height, width)."""

_CONDITIONINGS = 16  # kept on the model's device, where they are passed on another

Batching = Literal["together", "apart"]
"""`"together"` runs passes of equal shapes and taps in one forward; `"apart"` runs each by itself, which is slower on
most machines and has a lower peak of memory."""


def make_predict(model: M, compute: Compute[M], batching: Batching, running: Running) -> Predict:
    """The denoiser as a function of passes.

    Passes with taps go through a view of the model. Passes may be on another device than the model: the predictions
    are on the device of the passes, in float32.
    """
    model, strengths = for_run(model)
    on_device = OnDevice(torch.device(device_of(model)))
    views = ImageViews(model)  # as long-lived as the function

    def predict(passes: Sequence[Pass]) -> Sequence[Tensor]:
        predictions: dict[int, Tensor] = {}
        memory: dict[Any, Any] = {}  # of the changes of layers in this call
        for group in groups(passes, batching):
            running.check()
            together = [with_rows(on_device.moved(passes[i])) for i in group]
            if strengths is not None:
                strengths.set(together[0].step, [len(p.latents) for p in together])
            height, width = together[0].latents.shape[2:]
            size, taps = (height, width), together[0].taps
            with views.view(together, size) as tapped, tapped.view(taps, size, _forward_of(together, memory)) as view:
                rows = compute(view, together).float().to(passes[group[0]].latents.device)
            predictions.update(zip(group, rows.split([len(p.latents) for p in together]), strict=True))
        return [predictions[i] for i in range(len(passes))]

    return predict


def _forward_of(passes: Sequence[Pass], memory: dict[Any, Any]) -> Forward:
    ends = list(accumulate(len(p.latents) for p in passes))
    rows = (PassRows(p.role, end - len(p.latents), end) for p, end in zip(passes, ends, strict=True))
    return Forward(tuple(rows), passes[0].step, memory)


def with_rows(p: Pass) -> Pass:
    """The pass with one row of everything for each row of its latents: a single row serves all of them.

    Raises:
        UnfitValue: another number of rows.
    """
    count = len(p.latents)
    if p.conditioning.rows == count and all(len(t) == count for t in (*p.channels, *p.references)):
        return p
    if p.conditioning.rows not in (1, count):
        raise UnfitValue(
            f"The {p.role} conditioning has {counted(p.conditioning.rows, 'row')} for {counted(count, 'row')} of "
            "latents. Give one row for all, or insert ExpandRows() of sfumato.blocks.text.rows behind the block that "
            "encodes the prompt."
        )
    for name in ("channels", "references"):
        for t in getattr(p, name):
            if len(t) not in (1, count):
                raise UnfitValue(
                    f"One of the {name} of a pass has {counted(len(t), 'row')} for {counted(count, 'row')} of latents. "
                    "Give one row for all, or one each."
                )
    return replace(
        p,
        conditioning=p.conditioning.expand(count, 1) if p.conditioning.rows == 1 else p.conditioning,
        channels=tuple(t.expand(count, *t.shape[1:]) for t in p.channels),
        references=tuple(t.expand(count, *t.shape[1:]) for t in p.references),
    )


class OnDevice:
    """Moves passes to the device of a model. What the steps share, schedule and conditioning, is moved once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._conditionings: dict[int, tuple[Conditioning, Conditioning]] = {}  # by the id of the first, kept alive
        self._schedule: tuple[Schedule, Schedule] | None = None

    def moved(self, p: Pass) -> Pass:
        """The pass on the device; the same object where it is there already."""
        if {self._device} == _devices(p):
            return p
        return replace(
            p,
            latents=p.latents.to(self._device),
            step=Step(self._moved_schedule(p.step.schedule), p.step.index),
            conditioning=self._moved_conditioning(p.conditioning),
            channels=tuple(t.to(self._device) for t in p.channels),
            references=tuple(t.to(self._device) for t in p.references),
            residuals=tuple({k: tuple(t.to(self._device) for t in ts) for k, ts in r.items()} for r in p.residuals),
        )

    def _moved_schedule(self, schedule: Schedule) -> Schedule:
        if self._schedule is None or self._schedule[0] is not schedule:
            self._schedule = schedule, schedule.to(self._device)
        return self._schedule[1]

    def _moved_conditioning(self, conditioning: Conditioning) -> Conditioning:
        if id(conditioning) not in self._conditionings:
            if len(self._conditionings) >= _CONDITIONINGS:  # a block makes new ones in every step
                self._conditionings.clear()
            self._conditionings[id(conditioning)] = conditioning, conditioning.to(self._device)
        return self._conditionings[id(conditioning)][1]


def _devices(p: Pass) -> set[torch.device]:
    found = {p.latents.device, p.conditioning.tokens.device}
    for residuals in p.residuals:
        whole = residuals.whole if isinstance(residuals, RowSlice) else residuals  # so that no rows are cut out
        found.update(t.device for layers in whole.values() for t in layers[:1])
    return found


def scaled_latents(passes: Sequence[Pass]) -> Tensor:
    """The latents of all passes scaled for the model, with the channels that blocks add: (rows, channels, h, w)."""
    scale = passes[0].step.scale_in
    return torch.cat([torch.cat([p.latents * scale, *p.channels], 1) for p in passes])


def check_channels(sample: Tensor, needed: int, model: str, hint: str = "") -> None:
    """Raise UnfitValue where the latents have another number of channels than the model reads."""
    if (got := sample.shape[1]) != needed:
        raise UnfitValue(
            f"The {model} needs {needed} channels, got {got}: the latents, and the channels that blocks add.{hint}"
        )


def groups(passes: Sequence[Pass], batching: Batching = "together") -> list[list[int]]:
    """The indices of passes that go through a model together: equal shapes, step, taps, images and residuals."""
    if batching == "apart":
        return [[i] for i in range(len(passes))]
    found: dict[Hashable, list[int]] = {}
    for i, p in enumerate(passes):
        added = tuple(t.shape[1:] for t in p.channels), tuple(t.shape[1:] for t in p.references)
        places = frozenset(place for residuals in p.residuals for place in residuals)
        images = tuple((one.branch, tuple(t.shape[1:] for t in one.layers)) for one in p.images)
        key = p.latents.shape[1:], p.conditioning.row_shape, added, places, p.step.index, p.taps, images
        found.setdefault(key, []).append(i)
    return list(found.values())
