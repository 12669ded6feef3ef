"""Passes that share a forward: which do, and their inputs, row by row."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...components.conditioning import Conditioning
from ...components.schedulers.schedule import Schedule, Step
from ...components.types import Pass, RowSlice
from ...graph.errors import UnfitValue
from ...registry import counted

_CONDITIONINGS = 16  # kept as the model reads them, where they are passed otherwise


class Prepared:
    """Makes passes as a model reads them: on its device, and with a row of everything for each row of the latents.

    Schedule and conditioning, which the steps share, are moved and repeated once. So a conditioning is one object in
    all steps.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """`device` None leaves all where it is."""
        self._device = device
        self._conditionings: dict[tuple[int, int], tuple[Conditioning, Conditioning]] = {}  # by the id of the first
        self._schedule: tuple[Schedule, Schedule] | None = None

    def of(self, p: Pass) -> Pass:
        """The pass as the model reads it; the same object where nothing changes.

        Raises:
            UnfitValue: another number of rows than the latents have.
        """
        conditioning = self._conditioning_of(p)
        if conditioning is not p.conditioning:
            p = replace(p, conditioning=conditioning)
        return _with_rows(self._moved(p))

    def _conditioning_of(self, p: Pass) -> Conditioning:
        """The conditioning on the device, with a row for each row of the latents: a single row serves all of them."""
        own, count = p.conditioning, len(p.latents)
        device = self._device or own.tokens.device
        if own.rows == count and own.tokens.device == device:
            return own
        if own.rows not in (1, count):
            raise UnfitValue(
                f"The {p.role} conditioning has {counted(own.rows, 'row')} for {counted(count, 'row')} of latents. "
                "Give one row for all, or insert ExpandRows() of sfumato.blocks.text.rows behind the block that "
                "encodes the prompt."
            )
        if (key := (id(own), count)) not in self._conditionings:
            if len(self._conditionings) >= _CONDITIONINGS:  # a block makes new ones in every step
                self._conditionings.clear()
            moved = own.to(device)
            self._conditionings[key] = own, moved if own.rows == count else moved.expand(count, 1)
        return self._conditionings[key][1]

    def _moved(self, p: Pass) -> Pass:
        if (device := self._device) is None or {device} == _devices(p):
            return p
        return replace(
            p,
            latents=p.latents.to(device),
            step=Step(self._moved_schedule(p.step.schedule, device), p.step.index),
            channels=tuple(t.to(device) for t in p.channels),
            references=tuple(t.to(device) for t in p.references),
            residuals=tuple({k: tuple(t.to(device) for t in ts) for k, ts in r.items()} for r in p.residuals),
        )

    def _moved_schedule(self, schedule: Schedule, device: torch.device) -> Schedule:
        if self._schedule is None or self._schedule[0] is not schedule:
            self._schedule = schedule, schedule.to(device)
        return self._schedule[1]


def _with_rows(p: Pass) -> Pass:
    """The pass with a row of each input for each row of its latents. UnfitValue for another number of rows."""
    count = len(p.latents)
    if all(len(t) == count for t in (*p.channels, *p.references)):
        return p
    for name in ("channels", "references"):
        for t in getattr(p, name):
            if len(t) not in (1, count):
                raise UnfitValue(
                    f"One of the {name} of a pass has {counted(len(t), 'row')} for {counted(count, 'row')} of latents. "
                    "Give one row for all, or one each."
                )
    return replace(
        p,
        channels=tuple(t.expand(count, *t.shape[1:]) for t in p.channels),
        references=tuple(t.expand(count, *t.shape[1:]) for t in p.references),
    )


def _devices(p: Pass) -> set[torch.device]:
    found = {p.latents.device, p.conditioning.tokens.device}
    for residuals in p.residuals:
        whole = residuals.whole if isinstance(residuals, RowSlice) else residuals  # so that no rows are cut out
        found.update(t.device for layers in whole.values() for t in layers[:1])
    return found


def scaled_latents(passes: Sequence[Pass]) -> Tensor:
    """The latents of all passes, each scaled for the model in its own step: (rows, channels, h, w)."""
    return _in_one(_scaled(passes))


def input_of(passes: Sequence[Pass]) -> Tensor:
    """The scaled latents of all passes with the channels that blocks add: (rows, channels, h, w)."""
    pairs = zip(_scaled(passes), passes, strict=True)
    return _in_one([torch.cat([scaled, *p.channels], 1) if p.channels else scaled for scaled, p in pairs])


def _scaled(passes: Sequence[Pass]) -> list[Tensor]:
    """The latents of each pass, scaled. Passes of a guider have one tensor of latents, which is scaled once."""
    made: dict[tuple[int, float], Tensor] = {}
    for p in passes:
        if (key := (id(p.latents), p.step.scale_in)) not in made:
            made[key] = p.latents if key[1] == 1 else p.latents * key[1]
    return [made[id(p.latents), p.step.scale_in] for p in passes]


def _in_one(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def timesteps(passes: Sequence[Pass]) -> Tensor:
    """The timestep of all rows, (); (rows,) where passes are in steps with different ones. float32 with any scheduler,
    so that a change of the scheduler compiles nothing again."""
    first = passes[0].step
    if all(p.step.timestep == first.timestep for p in passes):
        return first.time
    return torch.cat([p.step.time.expand(len(p.latents)) for p in passes])


def check_channels(sample: Tensor, needed: int, model: str, hint: str = "") -> None:
    """Raise UnfitValue where the latents have another number of channels than the model reads."""
    if (got := sample.shape[1]) != needed:
        raise UnfitValue(
            f"The {model} needs {needed} channels, got {got}: the latents, and the channels that blocks add.{hint}"
        )


def groups(passes: Sequence[Pass]) -> list[list[int]]:
    """The indices of passes that go through a model together."""
    return grouped([group_key(p) for p in passes])


def grouped(keys: Sequence[Hashable]) -> list[list[int]]:
    """The indices of equal keys, in the order of their first one."""
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return list(found.values())


def group_key(p: Pass) -> Hashable:
    """Passes with equal ones can share a forward: equal shapes, taps, image prompts and places of residuals.

    Steps may differ, but not those of passes with taps that read the step of the forward. Passes that skip other layers
    share none.
    """
    added = tuple(t.shape[1:] for t in p.channels), tuple(t.shape[1:] for t in p.references)
    places = frozenset(place for residuals in p.residuals for place in residuals)
    images = tuple((one.branch, tuple(t.shape[1:] for t in one.layers)) for one in p.images)
    tapped = (p.taps, None if p.taps.per_pass else p.step.index) if p.taps else None
    skips = tuple(None if memory.decision is None else memory.decision.skips for memory in p.memories)
    return p.latents.shape[1:], p.conditioning.row_shape, added, places, tapped, images, skips
