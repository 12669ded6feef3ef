"""A part of the steps of a schedule, for latents that other steps have begun."""

from typing import Annotated, NamedTuple

from annotated_types import Ge

from ...components.types import Conditioning, ImageLatents, Latents, Rows, Steps
from ...graph import Block, knob
from ...graph.errors import UnfitValue
from ...registry import counted
from .start import Scheduled, Started

Place = Annotated[int, Ge(0)]
_ALL = 10_000


class SliceSchedule(Block):
    """Keep the whole steps from `start_at_step` to before `end_at_step`.

    Raises:
        UnfitValue: no step is left.
    """

    start_at_step: Place = knob(0)
    end_at_step: Place = knob(_ALL)

    def __call__(self, steps: Steps) -> Scheduled:
        whole = steps.places
        kept = [i for i, number in enumerate(whole) if self.start_at_step <= number < self.end_at_step]
        if not kept:
            raise UnfitValue(
                f"The steps from {self.start_at_step} to {self.end_at_step} are none of the "
                f"{counted(whole[-1] + 1, 'step')}. Give another range, or more steps."
            )
        return Scheduled(steps[kept[0] : kept[-1] + 1])


class ContinueLatents(Block):
    """Start from latents that other steps have left noisy, and add nothing.

    Raises:
        UnfitValue: another number of rows than pictures.
    """

    def __call__(self, image_latents: ImageLatents, steps: Steps, positive: Conditioning, rows: Rows) -> Started:
        if len(image_latents) != rows.total:
            raise UnfitValue(
                f"Got {counted(len(image_latents), 'row')} of latents for {counted(rows.total, 'picture')}. "
                "Give one each."
            )
        device = positive.tokens.device
        return Started(image_latents.to(device).float(), steps.to(device))


class Reused(NamedTuple):
    """Latents that a run may start from."""

    image_latents: ImageLatents


class ReuseLatents(Block):
    """Take the latents of one run of steps as the start of another."""

    def __call__(self, latents: Latents) -> Reused:
        return Reused(latents)
