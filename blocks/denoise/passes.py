"""How passes share a forward of the denoiser: the one place that decides it, for every family."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ...components.conditioning import Conditioning
from ...components.memory.sizes import device_of
from ...components.models.taps import Size, Taps, apply_taps
from ...components.schedulers.schedule import Schedule, Step
from ...components.types import Pass, Predict, RowSlice
from ...graph import Running

M = TypeVar("M", bound=nn.Module)

_WORDS = 16  # prompts that are kept on the model's device, if they come from another

Batching = Literal["together", "apart"]
"""`"together"` runs passes of equal shapes and taps in one forward; `"apart"` each by itself: slower on most machines,
with a lower peak of memory."""


def asking(model: M, forward: Callable[[M, Sequence[Pass]], Tensor], batching: Batching, running: Running) -> Predict:
    """The denoiser as a function of passes.

    `forward(model, passes)` answers passes that go together: (rows of all passes, channels, height, width). Passes with
    taps go through a view of the model. Passes may lie on another device than the model; answers lie where they do.
    """
    here = Here(torch.device(device_of(model)))
    views: dict[tuple[Taps, Size], M] = {}  # as long as this function, and its alone

    def seen(taps: Taps, size: Size) -> M:
        if not taps:
            return model
        if (taps, size) not in views:
            views[taps, size] = apply_taps(model, taps, size)
        return views[taps, size]

    def predict(passes: Sequence[Pass]) -> Sequence[Tensor]:
        answers: dict[int, Tensor] = {}
        for group in groups(passes, batching):
            running.check()
            asked = [here.brought(passes[i]) for i in group]
            height, width = asked[0].latents.shape[2:]
            said = forward(seen(asked[0].taps, (height, width)), asked).float().to(passes[group[0]].latents.device)
            answers.update(zip(group, said.split([len(p.latents) for p in asked]), strict=True))
        return [answers[i] for i in range(len(passes))]

    return predict


class Here:
    """Passes on the device of a model. What the turns share is brought there once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._words: dict[int, tuple[Conditioning, Conditioning]] = {}  # by id, with what it is the id of
        self._schedule: tuple[Schedule, Schedule] | None = None

    def brought(self, asked: Pass) -> Pass:
        if {self._device} == _places(asked):
            return asked
        return replace(
            asked,
            latents=asked.latents.to(self._device),
            step=Step(self._there(asked.step.schedule), asked.step.index),
            conditioning=self._read(asked.conditioning),
            channels=tuple(t.to(self._device) for t in asked.channels),
            references=tuple(t.to(self._device) for t in asked.references),
            residuals=tuple({k: tuple(t.to(self._device) for t in ts) for k, ts in r.items()} for r in asked.residuals),
        )

    def _there(self, schedule: Schedule) -> Schedule:
        if self._schedule is None or self._schedule[0] is not schedule:
            self._schedule = schedule, schedule.to(self._device)
        return self._schedule[1]

    def _read(self, words: Conditioning) -> Conditioning:
        if id(words) not in self._words:
            if len(self._words) >= _WORDS:  # made anew in every turn
                self._words.clear()
            self._words[id(words)] = words, words.to(self._device)
        return self._words[id(words)][1]


def _places(asked: Pass) -> set[torch.device]:
    found = {asked.latents.device, asked.conditioning.tokens.device}
    for residuals in asked.residuals:
        whole = residuals.whole if isinstance(residuals, RowSlice) else residuals  # so that nothing is cut out for this
        found.update(t.device for layers in whole.values() for t in layers[:1])
    return found


def groups(passes: Sequence[Pass], batching: Batching = "together") -> list[list[int]]:
    """Which passes go through a model together, by their places."""
    if batching == "apart":
        return [[i] for i in range(len(passes))]
    found: dict[Hashable, list[int]] = {}
    for i, p in enumerate(passes):
        joined = tuple(t.shape[1:] for t in p.channels), tuple(t.shape[1:] for t in p.references)
        places = frozenset(place for residuals in p.residuals for place in residuals)
        key = p.latents.shape[1:], p.conditioning.row_shape, joined, places, p.step.index, p.taps
        found.setdefault(key, []).append(i)
    return list(found.values())
