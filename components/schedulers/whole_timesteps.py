"""Plans for solvers that visit whole training timesteps, at levels that keep variance."""

from collections.abc import Sequence

from .request import Request
from .schedule import Level, Schedule
from .spacing import Spacing, rounded, spaced, visited
from .training_noise import TrainingNoise


def visited_timesteps(request: Request, count: int, spacing: Spacing, offset: int) -> tuple[int, ...]:
    """The whole timesteps of a run, falling: those of the request, or `n` of `count`."""
    return rounded(visited(request, count, lambda n: spaced(spacing, n, count, offset), offset))


def to_the_next(timesteps: Sequence[int], training: TrainingNoise, end: Level, adds_noise: Sequence[bool]) -> Schedule:
    """Each step leads to the level of the next timestep, and the last one to `end`."""
    levels = (*(training.level(t) for t in timesteps), end)
    return Schedule.through(levels, timesteps, adds_noise=tuple(adds_noise))


def one_stride_down(
    timesteps: Sequence[int], training: TrainingNoise, request: Request, clean_end: bool, adds_noise: bool
) -> Schedule:
    """Each step leads `training timesteps // steps` down, as DDIM publishes; custom timesteps lead to the next one.

    That differs from where the next step starts when the steps do not divide the training timesteps and the spacing is
    not "leading". clean_end: below timestep 0 is a clean sample; else the level of timestep 0.
    """
    stride = len(training.alphas_cumprod) // len(timesteps)
    below = (*timesteps[1:], -1) if request.timesteps is not None else tuple(t - stride for t in timesteps)
    targets = tuple(training.level(t, clean_end) for t in below)
    levels = (*(training.level(t) for t in timesteps), targets[-1])
    return Schedule.through(levels, timesteps, targets=targets, adds_noise=(adds_noise,) * len(timesteps))
