"""One step along the schedule."""

from typing import NamedTuple

from torch import Tensor

from ...components.random import Random
from ...components.schedulers import Scheduler
from ...components.schedulers.schedule import Step
from ...components.types import Latents, Prediction
from ...graph import Block, Memory, Running, component
from ...graph.ports import ALONE

History = tuple[Tensor, ...]
"""The scheduler's memory: past predictions; empty before the first step."""


class Advanced(NamedTuple):
    """The latents of the next step, and the memory of the scheduler."""

    latents: Latents
    random: Random
    history: Memory[History]


class AdvanceLatents(Block):
    """Move the latents one step on. Noise is drawn only in steps in which the scheduler adds some.

    In a run that finishes now, the latents are the clean ones that the prediction points to.
    """

    scheduler: Scheduler = component()

    def __call__(
        self,
        latents: Latents,
        prediction: Prediction,
        step: Step,
        random: Random,
        history: Memory[History] = (),
        running: Running = ALONE,
    ) -> Advanced:
        running.preview(lambda: self.scheduler.denoised(latents, prediction, step))
        if running.finishing:
            return Advanced(self.scheduler.denoised(latents, prediction, step), random, history)
        noise = None
        if step.noisy:
            drawn, random = random.draw(len(latents), latents.shape[1:])
            noise = drawn.to(latents.device)
        moved, history = self.scheduler.advance(latents, prediction, step, history, noise)
        return Advanced(moved, random, history)
