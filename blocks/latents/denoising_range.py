"""A part of the denoising: `denoising_end` leaves the last steps to another model, `denoising_start` the first ones."""

from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt, Le, Lt

from ...components.random import Random
from ...components.schedulers import Scheduler
from ...components.schedulers.schedule import Schedule
from ...components.types import Conditioning, ImageLatents, Latents, Rows, Steps
from ...graph import Block, component, knob
from ...graph.errors import UnfitValue
from ...registry import counted
from .start import CutSchedule, Drawn, DrawNoiseLike, NoiseImage, NoiseImageFully, Scheduled, Started, exact

End = Annotated[float, Gt(0), Le(1)]
"""A fraction of the training timesteps, counted from the noisiest; 1 is all of them."""
Start = Annotated[float, Ge(0), Lt(1)]
"""The same; 0 is the beginning."""


class EndSchedule(Block):
    """Stop early, so that another model removes the rest of the noise, as SDXL's refiner does.

    denoising_end: a fraction of the training timesteps, counted from the noisiest. The latents are then still noisy.

    Raises:
        UnfitValue: no step is left.
    """

    scheduler: Scheduler = component()
    denoising_end: End = knob(1.0)

    def __call__(self, steps: Steps) -> Scheduled:
        kept = steps[: _count_before(steps, self.scheduler, self.denoising_end)]
        if not kept:
            raise UnfitValue(
                f"denoising_end={self.denoising_end} leaves none of the {counted(len(steps), 'step')}. Give a larger "
                "one, or more steps; with denoising_start it must lie above that."
            )
        return Scheduled(kept)


class BeginSchedule(Block):
    """Leave out the first steps: those before `denoising_start`, or as many as `strength` says.

    denoising_start: the `denoising_end` of the run that this one continues; `strength` is then not read. strength: as
    in `CutSchedule`.

    Raises:
        UnfitValue: no step is left.
    """

    scheduler: Scheduler = component()
    strength: End = knob(0.3)
    denoising_start: Start = knob(0.0)

    def __call__(self, steps: Steps) -> Scheduled:
        if not self.denoising_start:
            return CutSchedule(strength=self.strength)(steps)
        kept = steps[_count_before(steps, self.scheduler, self.denoising_start) :]
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
    """Split the steps between two models, SDXL's base and its refiner. denoising_end: where the second takes over."""

    scheduler: Scheduler = component()
    denoising_end: End = knob(0.8)

    def __call__(self, steps: Steps) -> Split:
        count = _count_before(steps, self.scheduler, self.denoising_end)
        return Split(steps[:count], steps[count:])


class DrawNoiseToBegin(Block):
    """Draw noise of the shape of an image's latents; zeros for a run that continues another, which has noise."""

    denoising_start: Start = knob(0.0)

    def __call__(self, image_latents: ImageLatents, random: Random) -> Drawn:
        if self.denoising_start:
            return Drawn(torch.zeros_like(image_latents), random)
        return DrawNoiseLike()(image_latents, random)


class ContinueOrNoise(Block):
    """Start from an image, noised to the first step; or continue another run, from its noisy latents.

    A run with a `denoising_start` continues: from `noisy_latents`, or without them from the latents of the image.
    from_noise_alone: a schedule with all its steps starts from noise alone.

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
        noisy_latents: Latents | None = None,
    ) -> Started:
        if not self.denoising_start:
            start = NoiseImageFully if self.from_noise_alone else NoiseImage
            return start(scheduler=self.scheduler)(image_latents, latents, steps, positive, rows)
        noisy = image_latents if noisy_latents is None else noisy_latents
        if len(noisy) != rows.total:
            raise UnfitValue(
                f"Got {counted(len(noisy), 'row')} of latents for {counted(rows.total, 'picture')}. Give one each."
            )
        device = positive.tokens.device
        return Started(noisy.to(device).float(), steps.to(device))


def _count_before(steps: Schedule, scheduler: Scheduler, fraction: float) -> int:
    """The number of steps before this fraction of the training timesteps. Whole steps of a solver stay together."""
    if fraction == 1:
        return len(steps)
    total: int = getattr(scheduler, "num_train_timesteps", 1000)  # for schedulers that have no such config key
    cutoff = round(total * (1 - exact(fraction)))
    whole = steps.whole_step_of
    begins = (step for step in steps if step.first or whole[step.index] != whole[step.index - 1])
    first = next((step.index for step in begins if step.timestep < cutoff), steps.end)
    return first - steps.begin
