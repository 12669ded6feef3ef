"""Schedules of the learning rate: factors that depend on the step of the optimizer and on nothing else.

So a schedule has no state: it is the same with any accumulation, any number of processes, and after a resume.
"""

from collections.abc import Callable
from functools import partial
from math import cos, pi

from ...registry import Names
from .options import checked_options
from .settings import Choice, named_choice

Factor = Callable[[int], float]
"""The factor of the learning rate at a step; 0 is the first."""


def make_lr_schedule(choice: Choice, steps: int, warmup: int) -> Factor:
    """Make a schedule by its name.

    During the warm-up the factor is `step / warmup`. After it the schedule gets the part `z` of the steps after the
    warm-up that is done, from 0 to 1.

    Args:
        choice: the name, or a table with it and its options.
        steps: those of the whole training.
        warmup: the steps of the warm-up.

    Raises:
        UnknownName: another name.
        ConfigError: an option that the schedule does not have.
    """
    name, options = named_choice("lr_schedule", choice)
    shape = LR_SCHEDULES[name]
    after_warmup = partial(shape, **checked_options(f"lr_schedule {name!r}", shape, options, given=1))

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return after_warmup(min((step - warmup) / max(1, steps - warmup), 1.0))

    return factor


def constant(z: float) -> float:
    """1."""
    return 1.0


def linear(z: float) -> float:
    """From 1 to 0 in a line."""
    return 1 - z


def cosine(z: float) -> float:
    """From 1 to 0 in half a wave of the cosine."""
    return 0.5 * (1 + cos(pi * z))


def cosine_with_restarts(z: float, *, cycles: int = 1) -> float:
    """From 1 to 0 in half a wave, `cycles` times (SGDR, Loshchilov and Hutter 2017, eq. 5)."""
    return 0.0 if z >= 1 else 0.5 * (1 + cos(pi * (cycles * z % 1)))


def polynomial(z: float, *, power: float = 1.0, end: float = 0.0) -> float:
    """From 1 to `end` as the `power` of the part that is left."""
    return end + (1 - end) * (1 - z) ** power


def rex(z: float) -> float:
    """From 1 to 0, late (REX, Chen, Wolfe and Kyrillidis 2022, section 4)."""
    return (1 - z) / (0.5 + 0.5 * (1 - z))


LR_SCHEDULES: Names = Names(
    "lr_schedule",
    {shape.__name__: shape for shape in (constant, linear, cosine, cosine_with_restarts, polynomial, rex)},
)
"""By name. A package adds its own with the entry point group `sfumato.lr_schedules`."""
