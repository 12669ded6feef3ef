"""SDXL's own ways to divide the steps: noisy latents in place of a picture, and a base and a refiner in one graph."""

from typing import NamedTuple

import torch

from ...components.halfway import HalfwayLatents
from ...components.random import Random
from ...components.schedulers import Scheduler
from ...components.schedulers.schedule import Schedule
from ...components.types import Conditioning, Halfway, ImageLatents, Latents, Rows, Steps
from ...graph import Block, LoopMemory, component, knob
from ...graph.errors import UnfitValue
from ...registry import counted
from .parts import End, Ended, Start, steps_before
from .start import CutSchedule, Drawn, DrawNoiseLike, NoiseImage, NoiseImageFully, Scheduled, Started


class BeginSchedule(Block):
    """Leave out the first steps: those before `denoising_start`, or as many as `strength` requires.

    denoising_start: the `denoising_end` of the run that this one continues; `strength` is then not read. strength: as
    in `CutSchedule`. halfway: the latents of a run that `BeginPart` continues; then it leaves out the first steps.

    Raises:
        UnfitValue: no step is left.
    """

    scheduler: Scheduler = component()
    strength: End = knob(0.3)
    denoising_start: Start = knob(0.0)

    def __call__(self, steps: Steps, halfway: Halfway = None) -> Scheduled:
        if not self.denoising_start or halfway is not None:
            return CutSchedule(strength=self.strength)(steps)
        kept = steps[steps_before(steps, self.scheduler, self.denoising_start) :]
        if not kept:
            raise UnfitValue(
                f"denoising_start={self.denoising_start} leaves none of the {counted(len(steps), 'step')}. "
                "Give a smaller one, or more steps."
            )
        return Scheduled(kept)


class Split(NamedTuple):
    """The steps of the first model, and those of the second."""

    steps: Steps
    refine_steps: Steps


class SplitSchedule(Block):
    """Split the steps between two models, SDXL's base and its refiner.

    split_at: where the second model takes over, as a fraction of the training timesteps, counted from the noisiest.
    Of a part of a run, either may have no steps.
    """

    scheduler: Scheduler = component()
    split_at: End = knob(0.8)

    def __call__(self, steps: Steps) -> Split:
        whole = steps.part(*steps.run)
        count = steps_before(whole, self.scheduler, self.split_at)
        return Split(*(_common(one, steps) for one in (whole[:count], whole[count:])))


def _common(run: Schedule, steps: Schedule) -> Schedule:
    """The part of a run that lies in these steps."""
    first, last = run.run
    return run.part(*(min(max(index, first), last) for index in (steps.begin, steps.end)))


class SplitMemory(NamedTuple):
    """The memory of the nodes of the first loop, and of those of the second."""

    memory: LoopMemory
    refine_memory: LoopMemory


class GiveMemory(Block):
    """Give the memory of a loop to the first of two loops, or to the second if the first has no steps."""

    def __call__(self, steps: Steps, memory: LoopMemory) -> SplitMemory:
        return SplitMemory(memory, {}) if steps else SplitMemory({}, memory)


class EndSplitPart(Block):
    """`EndPart` behind two loops. The second one begins without memory, as published."""

    def __call__(
        self, latents: Latents, steps: Steps, refine_steps: Steps, random: Random, memory: LoopMemory,
        refine_memory: LoopMemory, seeded: Random,
    ) -> Ended:  # fmt: skip
        first, last = steps.run[0], refine_steps.run[1]
        whole = steps.whole[first:last]
        rest = whole.part(max(steps.end, refine_steps.end if refine_steps else first), last)
        left = memory if rest.begin < steps.run[1] else refine_memory if refine_steps else {}
        return Ended(latents, HalfwayLatents(latents, rest, random, left, seeded))


class DrawNoiseToBegin(Block):
    """Draw noise of the shape of an image's latents; zeros where these are noisy already (`denoising_start`)."""

    denoising_start: Start = knob(0.0)

    def __call__(self, image_latents: ImageLatents, random: Random, halfway: Halfway = None) -> Drawn:
        if self.denoising_start and halfway is None:
            return Drawn(torch.zeros_like(image_latents), random)
        return DrawNoiseLike()(image_latents, random)


class ContinueOrNoise(Block):
    """Start from an image, noised to the first step; or with `denoising_start` from an image that is noisy already.

    As published for SDXL: a solver that remembers earlier steps begins without memory. To continue a run exactly, pass
    `halfway`, which `BeginPart` reads. from_noise_alone: a schedule with all its steps starts from noise alone.

    Raises:
        UnfitValue: another number of rows than pictures.
    """

    scheduler: Scheduler = component()
    denoising_start: Start = knob(0.0)
    from_noise_alone: bool = False

    def __call__(
        self,
        image_latents: ImageLatents,
        latents: Latents,
        steps: Steps,
        positive: Conditioning,
        rows: Rows,
        halfway: Halfway = None,
    ) -> Started:
        if not self.denoising_start or halfway is not None:
            start = NoiseImageFully if self.from_noise_alone else NoiseImage
            return start(scheduler=self.scheduler)(image_latents, latents, steps, positive, rows)
        if len(image_latents) != rows.total:
            raise UnfitValue(
                f"Got {counted(len(image_latents), 'row')} of latents for {counted(rows.total, 'picture')}. "
                "Give one each."
            )
        device = positive.tokens.device
        return Started(image_latents.to(device).float(), steps.to(device))
