"""A part of a run: its first steps, whose latents a later run takes on, or the steps after them."""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from ...components.halfway import HalfwayLatents
from ...components.random import Random
from ...components.schedulers import History, Scheduler
from ...components.schedulers.schedule import Schedule, Step
from ...components.types import Halfway, Latents, Steps
from ...graph import Block, LoopMemory, component, knob
from ...graph.errors import UnfitValue
from ...registry import counted
from .start import exact

End = Annotated[float, Gt(0), Le(1)]
"""A fraction of the training timesteps, counted from the noisiest; 1 is all of them."""
Start = Annotated[float, Ge(0), Lt(1)]
"""The same; 0 is the beginning."""


class SeededAgain(NamedTuple):
    """The random numbers, and those at the start of the run."""

    random: Random
    seeded: Random


class KeepSeed(Block):
    """Keep the random numbers of the start of a run. A run that goes on has those of the run that it continues."""

    def __call__(self, random: Random, halfway: Halfway = None) -> SeededAgain:
        seeded = halfway.seeded if isinstance(halfway, HalfwayLatents) else random
        return SeededAgain(seeded, seeded)


class Begun(NamedTuple):
    """The latents before the first step of this part, its steps, and what the nodes of the loop remember."""

    latents: Latents
    steps: Steps
    random: Random
    memory: LoopMemory


class BeginPart(Block):
    """Begin a run, or a part of it: from `halfway` if it is passed, up to `stop_step` or `denoising_end`.

    halfway: the output of that name of a run with `stop_step` or `denoising_end`; everything else is passed as in that
    run. Or plain latents of the step `start_step`, for schedulers that need nothing else of the steps before.
    start_step, stop_step: whole steps of the schedule, from 0: the first of this part, and the first after it. With
    `halfway` from a run, `start_step` is known. denoising_start, denoising_end: the same as fractions of the training
    timesteps, counted from the noisiest, as published for SDXL. A whole step of several model calls is not divided.

    Raises:
        UnfitValue: a part without steps; a `start_step` without `halfway`; half-way latents of another schedule, shape
            or step; plain latents, where the scheduler remembers earlier steps or draws noise.
    """

    scheduler: Scheduler = component()
    start_step: Annotated[int, Ge(0)] = knob(0)
    stop_step: Annotated[int, Ge(1)] | None = knob(None)
    denoising_start: Start = knob(0.0)
    denoising_end: End = knob(1.0)

    def __call__(self, latents: Latents, steps: Steps, random: Random, halfway: Halfway = None) -> Begun:
        start, end = self._start(steps.whole), self._end(steps.whole)
        if halfway is None:
            if start is not None and start > steps.begin:
                name = "start_step" if self.start_step else "denoising_start"
                raise UnfitValue(
                    f"{name}={getattr(self, name)} needs the latents of that step. Pass halfway=: the output of that "
                    "name of a run that stopped there. latents= is the noise before the first step."
                )
            return Begun(latents, self._part(steps, steps.begin, end), random, {})
        if not isinstance(halfway, HalfwayLatents):
            halfway = HalfwayLatents(halfway, self._rest(steps, start), random, {}, random)
        _check(halfway, latents, steps)
        if start is not None and start != halfway.steps.begin:
            theirs, ours = (steps.places[index] for index in (halfway.steps.begin, start))
            raise UnfitValue(
                f"The half-way latents are of step {theirs}, not of step {ours}. Leave out {self._start_name}: "
                "halfway= has the step."
            )
        halfway = halfway.to(latents.device)
        part = self._part(halfway.steps, halfway.steps.begin, end)
        return Begun(halfway.latents.float(), part, halfway.random, halfway.memory)

    @property
    def _start_name(self) -> str:
        return "start_step" if self.start_step else "denoising_start"

    @property
    def _end_name(self) -> str:
        return "denoising_end" if self.stop_step is None else "stop_step"

    def _start(self, steps: Schedule) -> int | None:
        """The index of the first step that the call names; None where it names none."""
        if self.start_step and self.denoising_start:
            raise UnfitValue(
                f"Got start_step={self.start_step} and denoising_start={self.denoising_start}. Pass one of them."
            )
        if not self.start_step and not self.denoising_start:
            return None
        if self.start_step:
            index = self._index("start_step", self.start_step, steps)
        else:
            index = steps_before(steps, self.scheduler, self.denoising_start)
        if index == len(steps):
            name = self._start_name
            raise UnfitValue(
                f"{name}={getattr(self, name)} leaves none of the {counted(len(steps), 'step')}. Give a smaller one, "
                "or more steps."
            )
        return index

    def _end(self, steps: Schedule) -> int:
        """The index after the last step."""
        if self.stop_step is None:
            return steps_before(steps, self.scheduler, self.denoising_end)
        if self.denoising_end != 1:
            raise UnfitValue(
                f"Got stop_step={self.stop_step} and denoising_end={self.denoising_end}. Pass one of them."
            )
        return self._index("stop_step", self.stop_step, steps)

    def _index(self, name: str, number: int, steps: Schedule) -> int:
        """The index of the first model call of a whole step."""
        count = steps.places[-1] + 1
        if number > count:
            raise UnfitValue(f"{name}={number} is above the {counted(count, 'step')} of this run. Give 1 to {count}.")
        return len(steps) if number == count else steps.places.index(number)

    def _part(self, steps: Schedule, begin: int, end: int) -> Schedule:
        """The steps from one index to another, as a part of their run."""
        end = min(end, steps.run[1])
        if end <= begin:
            name = self._end_name
            raise UnfitValue(
                f"{name}={getattr(self, name)} leaves none of the {counted(len(steps), 'step')}. Give a larger one, or "
                "more steps; it must lie above the step that the run begins with."
            )
        return steps.part(begin, end)

    def _rest(self, steps: Schedule, start: int | None) -> Schedule:
        """The steps that plain latents go through. UnfitValue where they do not go on exactly, or have no step."""
        if start is None:
            raise UnfitValue(
                "halfway= needs the step of plain latents. Pass start_step= too, or the output halfway of the run that "
                "made them."
            )
        whole = steps if steps.run[0] <= start else steps.whole
        rest = whole.part(start, whole.run[1])
        if any(step.noisy for step in rest) or needs_history(rest, self.scheduler):
            reason = "draws noise" if any(step.noisy for step in rest) else "remembers earlier steps"
            raise UnfitValue(
                f"{type(self.scheduler).__name__} {reason}, so latents alone do not continue a run. Pass the output "
                "halfway of the run that made them, which has the rest."
            )
        return rest


class Ended(NamedTuple):
    """The latents after the last step of this part, and all that a run which goes on needs."""

    latents: Latents
    halfway: HalfwayLatents


class EndPart(Block):
    """End a run, or a part of it: a later run goes on from `halfway` exactly as if this one had not stopped."""

    def __call__(self, latents: Latents, steps: Steps, random: Random, memory: LoopMemory, seeded: Random) -> Ended:
        rest = steps.part(steps.end, steps.run[1])
        return Ended(latents, HalfwayLatents(latents, rest, random, memory, seeded))


def steps_before(steps: Schedule, scheduler: Scheduler, fraction: float) -> int:
    """The number of steps before this fraction of the training timesteps. Whole steps of a solver stay together."""
    if fraction == 1:
        return len(steps)
    total: int = getattr(scheduler, "num_train_timesteps", 1000)  # for schedulers that have no such config key
    cutoff = round(total * (1 - exact(fraction)))
    whole = steps.places
    begins = (step for step in steps if step.first or whole[step.index] != whole[step.index - 1])
    first = next((step.index for step in begins if step.timestep < cutoff), steps.end)
    return first - steps.begin


def needs_history(steps: Schedule, scheduler: Scheduler) -> bool:
    """Whether the sample alone does not determine these steps: the solver reads its history of earlier ones.

    A small sample goes through the run twice, with the history at the first of the steps and without it.
    """
    sample = torch.linspace(-1, 1, 16, device="cpu").view(1, 4, 2, 2)

    def prediction(step: Step) -> Tensor:  # it differs from step to step, as a model's does
        return torch.linspace(0, 2, 16, device="cpu").view(1, 4, 2, 2).add(step.index).sin()

    def noise(step: Step) -> Tensor | None:
        return torch.zeros_like(sample) if step.noisy else None

    history: History = ()
    for step in steps.part(steps.run[0], steps.begin):
        sample, history = scheduler.advance(sample, prediction(step), step, history, noise(step))
    alone, alone_history = sample, ()
    for step in steps:
        sample, history = scheduler.advance(sample, prediction(step), step, history, noise(step))
        alone, alone_history = scheduler.advance(alone, prediction(step), step, alone_history, noise(step))
        if not torch.equal(sample.nan_to_num(), alone.nan_to_num()):
            return True
    return False


def _check(halfway: HalfwayLatents, latents: Tensor, steps: Schedule) -> None:
    """UnfitValue where half-way latents do not belong to this run. latents: those that it would start from."""
    if not halfway.steps:
        raise UnfitValue(
            "These latents are of a run that went through all its steps, so there is nothing to go on with. Stop a run "
            "with stop_step=, and pass its output halfway."
        )
    if halfway.latents.shape != latents.shape:
        raise UnfitValue(
            f"The half-way latents have the shape {_shape(halfway.latents)}, and this run needs {_shape(latents)}: "
            "other pictures or another size. Pass the same prompts, height, width and image as in the run that made "
            "them."
        )
    theirs, ours = halfway.steps.whole, steps.whole
    if theirs != ours:
        counts = [schedule.places[-1] + 1 for schedule in (theirs, ours)]
        differ = f"{counts[0]} and {counts[1]} steps" if counts[0] != counts[1] else "other noise levels"
        raise UnfitValue(
            f"The half-way latents belong to another schedule than that of this run: {differ}. Pass the same "
            "num_inference_steps, timesteps, sigmas, size and scheduler settings as in the run that made them."
        )


def _shape(latents: Tensor) -> str:
    return "x".join(map(str, latents.shape))
