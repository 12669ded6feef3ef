"""Intervals of steps. Fractions count the whole steps of a schedule, however many model calls each has."""

import math

from ...components.schedulers.schedule import Step


def places(step: Step) -> tuple[int, int]:
    """The number of the whole step that this model call belongs to, and how many the whole schedule has."""
    places = step.schedule.places
    return places[step.index], places[-1] + 1


def within(step: Step, start: float, stop: float) -> bool:
    """Whether a step lies in an interval: from the whole step at `start` up to, and without, the one at `stop`."""
    number, count = places(step)
    return int(start * count) <= number < int(stop * count)


def within_perturbed(step: Step, start: float, stop: float) -> bool:
    """Whether a step lies in the interval of a perturbed pass.

    The interval begins with the first whole step at or after `start`, so that the published 0.01 leaves out the first
    step and 0 does not. It is at least one step long, so that the published end at 0.2 means something in 4 steps too.
    """
    number, count = places(step)
    first = min(math.ceil(start * count - 1e-9), count - 1)
    return start < stop and first <= number < max(int(stop * count), first + 1)
