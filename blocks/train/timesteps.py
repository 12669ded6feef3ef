"""The timesteps of training: all of them as a schedule, and one drawn for each row."""

import math
from abc import abstractmethod
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from ...components.random import Random
from ...components.schedulers import Scheduler
from ...components.schedulers.flow_match import ShiftKeys, dynamic_shift
from ...components.schedulers.schedule import Step
from ...components.schedulers.training_schedule import training_schedule
from ...components.types import ImageLatents, Number, Steps
from ...graph import Block, Port, component, knob
from ...graph.errors import ConfigError, UnfitValue

RowSteps = Annotated[tuple[Step, ...], Port("row_steps")]
"""A step of the training schedule for each row."""


class TrainingSteps(NamedTuple):
    """All training timesteps, from most noise to least."""

    steps: Steps


class MakeTrainingSchedule(Block):
    """Plan all noise levels at which the model learns; see `training_schedule`."""

    scheduler: Scheduler = component()

    def __call__(self) -> TrainingSteps:
        return TrainingSteps(training_schedule(self.scheduler))


class DrawnSteps(NamedTuple):
    """A step for each row."""

    row_steps: RowSteps
    random: Random


class DrawTimesteps(Block):
    """Draw a timestep for each row, all of them equally often (Ho et al. 2020, algorithm 1).

    first, last: the timesteps to draw from, both included; None for all.

    Raises:
        UnfitValue: no timestep between them.
    """

    first: Annotated[int, Ge(0)] = 0
    last: Annotated[int, Ge(0)] | None = None

    def __call__(self, image_latents: ImageLatents, steps: Steps, random: Random) -> DrawnSteps:
        end = len(steps) if self.last is None else min(self.last + 1, len(steps))
        if self.first >= end:
            raise UnfitValue(
                f"There is no timestep from {self.first} to {end - 1}, which is the last. Lower first=, or raise last=."
            )
        drawn, random = random.integers(len(image_latents), end - self.first)
        numbers = [len(steps) - 1 - self.first - int(number) for number in drawn]
        return DrawnSteps(tuple(steps[number] for number in numbers), random)


class DrawByDensity(Block, abstract=True):
    """Base of blocks that draw a fraction u for each row, and take the step at `u * len(steps)` (Esser et al. 2024).

    u counts from the noisiest step.
    """

    @abstractmethod
    def fractions(self, rows: int, random: Random) -> tuple[Tensor, Random]:
        """Draw u for each row: (rows,), in [0, 1)."""
        ...

    def __call__(self, image_latents: ImageLatents, steps: Steps, random: Random) -> DrawnSteps:
        u, random = self.fractions(len(image_latents), random)
        numbers = (u * len(steps)).long().clamp(0, len(steps) - 1).tolist()
        return DrawnSteps(tuple(steps[number] for number in numbers), random)


class DrawUniform(DrawByDensity):
    """Draw steps that are uniform along the schedule."""

    def fractions(self, rows: int, random: Random) -> tuple[Tensor, Random]:
        """Draw u uniformly."""
        return random.uniform(rows)


class DrawLogitNormal(DrawByDensity):
    """Draw steps by a logit-normal density: the middle of the path most often (Esser et al. 2024, section 3.1).

    mean, std: of the normal distribution whose sigmoid is taken.
    """

    mean: Number = knob(0.0)
    std: Number = knob(1.0)

    def fractions(self, rows: int, random: Random) -> tuple[Tensor, Random]:
        """The sigmoid of a normal number."""
        normal, random = random.draw(rows, ())
        return torch.sigmoid(normal * self.std + self.mean), random


class DrawMode(DrawByDensity):
    """Draw steps by the density with heavy tails (Esser et al. 2024, equation 20).

    mode_scale: how often the middle is drawn; 0 is uniform.
    """

    mode_scale: Number = knob(1.29)

    def fractions(self, rows: int, random: Random) -> tuple[Tensor, Random]:
        """1 - u - s (cos^2(pi u / 2) - 1 + u)."""
        u, random = random.uniform(rows)
        return 1 - u - self.mode_scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u), random


class DrawCosMap(DrawByDensity):
    """Draw steps by the density of CosMap, which has a cosine's signal-to-noise ratio (Esser et al. 2024, eq. 21)."""

    def fractions(self, rows: int, random: Random) -> tuple[Tensor, Random]:
        """1 / (tan(pi u / 2) + 1)."""
        u, random = random.uniform(rows)
        return 1 / (torch.tan(math.pi * u / 2) + 1), random


class DrawShifted(DrawByDensity):
    """Draw steps by a logit-normal density that is shifted towards noise (Esser et al. 2024, equation 23).

    shift: 1 shifts nothing; larger pictures need more. It is added to the constant shift of the scheduler's own levels.
    mean, std: of the normal distribution.
    """

    shift: Annotated[float, Gt(0)] = knob(3.0)
    mean: Number = knob(0.0)
    std: Number = knob(1.0)

    def fractions(self, rows: int, random: Random) -> tuple[Tensor, Random]:
        """1 - s t / (1 + (s - 1) t) of a noise level t whose logit is normal."""
        normal, random = random.draw(rows, ())
        t = torch.sigmoid(normal * self.std + self.mean)
        return 1 - self.shift * t / (1 + (self.shift - 1) * t), random


class DrawShiftedBySize(Block):
    """`DrawShifted` with the shift that the scheduler has for pictures of this size when it draws (dynamic shifting).

    patch: latents a side of a token of the denoiser. mean, std: of the normal distribution.

    Raises:
        ConfigError: a scheduler without dynamic shifting.
    """

    scheduler: Scheduler = component()
    patch: Annotated[int, Ge(1)] = 2
    mean: Number = knob(0.0)
    std: Number = knob(1.0)

    def __call__(self, image_latents: ImageLatents, steps: Steps, random: Random) -> DrawnSteps:
        keys = self.scheduler
        if not (isinstance(keys, ShiftKeys) and keys.use_dynamic_shifting):
            raise ConfigError(
                f"The shift of {type(keys).__name__} does not depend on the size of the picture: use_dynamic_shifting "
                "is not set. Use DrawShifted(shift=…)."
            )
        tokens = image_latents.shape[2] * image_latents.shape[3] // self.patch**2
        return DrawShifted(shift=dynamic_shift(keys, tokens), mean=self.mean, std=self.std)(
            image_latents, steps, random
        )


class DrawCubic(DrawByDensity):
    """Draw noisy steps most often, for nets that steer what is drawn first (Mou et al. 2023, section 3.4)."""

    def fractions(self, rows: int, random: Random) -> tuple[Tensor, Random]:
        """u^3."""
        u, random = random.uniform(rows)
        return u**3, random
