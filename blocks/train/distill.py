"""Consistency distillation of latent diffusion (Luo et al. 2023): a student learns to reach the clean latents at once.

From a noisy sample, the student's estimate is to be the one that a target makes of the sample one step further, where a
guided teacher led with DDIM.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from ...components.random import Random
from ...components.schedulers import Scheduler
from ...components.schedulers.lcm import boundary_scalings, distillation_schedule
from ...components.schedulers.predictions import clean, noise_in
from ...components.schedulers.training_schedule import prediction_kind
from ...components.types import Conditioning, Count, ImageLatents, Latents, Number, Predict, Prediction
from ...graph import Block, Port, component, knob
from .noise import levels
from .predict import predicted_rows
from .timesteps import RowSteps, TrainingSteps

RowGuidance = Annotated[Float[Tensor, " rows"], Port("row_guidance")]
"""How much guidance each row learns: w of Luo et al. 2023, which is the guidance scale less one."""


class MakeDistillationSchedule(Block):
    """Plan the steps between which a student learns; see `distillation_schedule`.

    original_inference_steps: their number, as `LCMScheduler` calls it.
    """

    scheduler: Scheduler = component()
    original_inference_steps: Count = 50

    def __call__(self) -> TrainingSteps:
        return TrainingSteps(distillation_schedule(self.scheduler, self.original_inference_steps))


class DrawnGuidance(NamedTuple):
    """Guidance for each row."""

    row_guidance: RowGuidance
    random: Random


class DrawGuidance(Block):
    """Draw the guidance of each row, uniform from w_min to w_max (Luo et al. 2023, section 4.2)."""

    w_min: Annotated[float, Ge(0)] = knob(5.0)
    w_max: Annotated[float, Ge(0)] = knob(15.0)

    def __call__(self, image_latents: ImageLatents, random: Random) -> DrawnGuidance:
        u, random = random.uniform(len(image_latents))
        return DrawnGuidance((self.w_max - self.w_min) * u + self.w_min, random)


class Consistent(NamedTuple):
    """An estimate of the clean latents (rows, channels, height, width)."""

    prediction: Prediction


class PredictConsistent(Block):
    """Estimate clean latents with the consistency function c_skip x + c_out x0 (Luo et al. 2023, equation 9).

    At timestep 0 it is the identity. timestep_scaling: as that of `LCMScheduler`. reads_guidance: whether the denoiser
    reads the guidance. frozen: record no gradients, as for a target.
    """

    scheduler: Scheduler = component()
    timestep_scaling: Number = 10.0
    reads_guidance: bool = False
    frozen: bool = False

    def __call__(
        self,
        predict: Predict,
        noisy_latents: Latents,
        row_steps: RowSteps,
        positive: Conditioning,
        row_guidance: RowGuidance,
    ) -> Consistent:
        scales = [1 + w for w in row_guidance.tolist()] if self.reads_guidance else None
        with _gradients(self.frozen):
            (prediction,) = predicted_rows(predict, noisy_latents, row_steps, [positive], scales)
            x0, _ = _both(self.scheduler, noisy_latents, prediction, row_steps)
            scalings = [boundary_scalings(step.timestep, self.timestep_scaling) for step in row_steps]
            skip, out = (
                torch.tensor(numbers, device=x0.device).view(-1, 1, 1, 1) for numbers in zip(*scalings, strict=True)
            )
            return Consistent(skip * noisy_latents + out * x0)


class Solved(NamedTuple):
    """Latents one step further, and their steps."""

    solved_latents: Latents
    next_steps: RowSteps


class SolveStep(Block):
    """Bring each row to the next step of its schedule, with a guided teacher and DDIM (Luo et al. 2023, equation 14).

    It records no gradients.
    """

    scheduler: Scheduler = component()

    def __call__(
        self,
        predict_teacher: Predict,
        noisy_latents: Latents,
        row_steps: RowSteps,
        positive: Conditioning,
        negative: Conditioning,
        row_guidance: RowGuidance,
    ) -> Solved:
        next_steps = tuple(step.next for step in row_steps)
        w = row_guidance.to(noisy_latents).view(-1, 1, 1, 1)
        with torch.no_grad():
            answers = predicted_rows(predict_teacher, noisy_latents, row_steps, [positive, negative])
            (x0, noise), (x0_without, noise_without) = (
                _both(self.scheduler, noisy_latents, answer, row_steps) for answer in answers
            )
            alpha, sigma = levels(next_steps, noisy_latents)
            solved = alpha * (x0 + w * (x0 - x0_without)) + sigma * (noise + w * (noise - noise_without))
        return Solved(solved, next_steps)


def _both(scheduler: Scheduler, sample: Tensor, prediction: Tensor, row_steps: RowSteps) -> tuple[Tensor, Tensor]:
    """The clean latents and the noise that predictions point to, each row at its step."""
    kind: Any = prediction_kind(scheduler)  # a Literal
    level: Any = levels(row_steps, sample)  # tensors of numbers in place of two numbers
    return clean(kind, sample, prediction, level), noise_in(kind, sample, prediction, level)


def _gradients(frozen: bool) -> AbstractContextManager[Any]:
    return torch.no_grad() if frozen else nullcontext()
