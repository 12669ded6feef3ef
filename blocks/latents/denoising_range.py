"""A part of the denoising: the end left to another model, or the beginning already done by one."""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le, Lt

from ...components.random import Random
from ...components.schedulers import Scheduler
from ...components.schedulers.schedule import Schedule
from ...components.types import Conditioning, ImageLatents, Latents, Steps
from ...graph import Block, component, knob
from ...registry import counted
from .start import CutSchedule, Drawn, DrawNoiseLike, NoiseImage, NoiseImageFully, Scheduled, Started

End = Annotated[float, Gt(0), Le(1)]
Start = Annotated[float, Ge(0), Lt(1)]


class EndSchedule(Block):
    """Stop early: leave the rest of the noise to another model, as SDXL's base does to its refiner.

    `denoising_end` is a share of the training timesteps, counted from the noisiest. What comes out is still noisy.
    """

    scheduler: Scheduler = component()
    denoising_end: End = knob(1.0)

    def __call__(self, steps: Steps) -> Scheduled:
        kept = steps[: _place(steps, self.scheduler, self.denoising_end)]
        if not kept:
            raise ValueError(
                f"denoising_end={self.denoising_end} leaves none of the {counted(len(steps), 'step')}. Give a larger "
                "one, or more steps; with denoising_start it must lie above that."
            )
        return Scheduled(kept)


class BeginSchedule(Block):
    """Leave out the first steps: those that `denoising_start` says are done, else what `strength` leaves out.

    `denoising_start` is where another run ended: its `denoising_end`. Then `strength` is not looked at.
    """

    scheduler: Scheduler = component()
    strength: End = knob(0.3)
    denoising_start: Start = knob(0.0)

    def __call__(self, steps: Steps) -> Scheduled:
        if not self.denoising_start:
            return CutSchedule(strength=self.strength)(steps)
        kept = steps[_place(steps, self.scheduler, self.denoising_start) :]
        if not kept:
            raise ValueError(
                f"denoising_start={self.denoising_start} leaves none of the {counted(len(steps), 'step')}."
            )
        return Scheduled(kept)


class Split(NamedTuple):
    steps: Steps
    refine_steps: Steps


class SplitSchedule(Block):
    """Give the first steps to one model and the rest to another: SDXL's base and its refiner, by default 80 to 20."""

    scheduler: Scheduler = component()
    denoising_end: End = knob(0.8)

    def __call__(self, steps: Steps) -> Split:
        place = _place(steps, self.scheduler, self.denoising_end)
        return Split(steps[:place], steps[place:])


class DrawNoiseToBegin(Block):
    """Draw noise of the shape of an image's latents; none, where a run goes on and has its noise already."""

    denoising_start: Start = knob(0.0)

    def __call__(self, image_latents: ImageLatents, random: Random) -> Drawn:
        if self.denoising_start:
            return Drawn(torch.zeros_like(image_latents), random)
        return DrawNoiseLike()(image_latents, random)


class ContinueOrNoise(Block):
    """Start from an image, noised to the first step; or from what another run left noisy, as it is.

    Where `denoising_start` says that a run goes on, that is `noisy_latents`, or the image itself where none are given.
    With `pure`, a schedule of which nothing is left out starts from noise alone.
    """

    scheduler: Scheduler = component()
    denoising_start: Start = knob(0.0)
    pure: bool = False

    def __call__(
        self,
        image_latents: ImageLatents,
        latents: Latents,
        steps: Steps,
        positive: Conditioning,
        noisy_latents: Latents | None = None,
    ) -> Started:
        if not self.denoising_start:
            start = NoiseImageFully if self.pure else NoiseImage
            return start(scheduler=self.scheduler)(image_latents, latents, steps, positive)
        going = image_latents if noisy_latents is None else noisy_latents
        if len(going) != positive.rows:
            raise ValueError(
                f"{counted(len(going), 'row')} of latents came for {counted(positive.rows, 'picture')}. Give one each."
            )
        device = positive.tokens.device
        return Started(going.to(device).float(), steps.to(device))


def _place(steps: Schedule, scheduler: Scheduler, share: float) -> int:
    """How many turns come before this share of the training timesteps is reached; a solver's steps stay whole."""
    if share == 1:
        return len(steps)
    total: int = getattr(scheduler, "num_train_timesteps", 1000)  # for schedulers that know no other count
    cutoff = round(total - share * total)
    places = steps.whole_step_of
    begins = (step for step in steps if step.first or places[step.index] != places[step.index - 1])
    first = next((step.index for step in begins if step.timestep < cutoff), steps.end)
    return first - steps.begin
