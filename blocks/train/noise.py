"""Noise for training: what is added to clean latents, and how."""

from typing import NamedTuple

from torch import Tensor, tensor

from ...components.random import Random
from ...components.schedulers.schedule import Step
from ...components.types import ImageLatents, Latents, Number
from ...graph import Block, knob
from .timesteps import RowSteps


class Noise(NamedTuple):
    """Noise (rows, channels, height, width)."""

    noise: Latents
    random: Random


class DrawTrainingNoise(Block):
    """Draw unit noise of the shape of clean latents."""

    def __call__(self, image_latents: ImageLatents, random: Random) -> Noise:
        noise, random = random.draw(len(image_latents), image_latents.shape[1:])
        return Noise(noise.to(image_latents.device), random)


class OffsetNoise(Block):
    """Add to the noise a number for each channel, so that the model learns very dark and very bright pictures.

    noise_offset: the standard deviation of that number; 0.05 to 0.1 is customary (Guttenberg 2023).
    """

    noise_offset: Number = knob(0.1)

    def __call__(self, noise: Latents, random: Random) -> Noise:
        offset, random = random.draw(len(noise), (noise.shape[1], 1, 1))
        return Noise(noise + self.noise_offset * offset.to(noise.device), random)


class Perturbed(NamedTuple):
    """The noise that is added to the latents."""

    added_noise: Latents
    random: Random


class PerturbNoise(Block):
    """Perturb the noise that is added, but not the one that the model predicts (Ning et al. 2023).

    input_perturbation: the standard deviation; the paper uses 0.1.
    """

    input_perturbation: Number = knob(0.1)

    def __call__(self, noise: Latents, random: Random) -> Perturbed:
        more, random = random.draw(len(noise), noise.shape[1:])
        return Perturbed(noise + self.input_perturbation * more.to(noise.device), random)


class Noisy(NamedTuple):
    """Noisy latents, each row at its own step."""

    noisy_latents: Latents


class AddNoise(Block):
    """Bring clean latents to the noise level of each row's step: alpha * clean + sigma * noise.

    added_noise: noise in place of `noise`; see `PerturbNoise`.
    """

    def __call__(
        self, image_latents: ImageLatents, noise: Latents, row_steps: RowSteps, added_noise: Latents | None = None
    ) -> Noisy:
        alpha, sigma = levels(row_steps, image_latents)
        return Noisy(alpha * image_latents + sigma * (noise if added_noise is None else added_noise))


def levels(row_steps: tuple[Step, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise of each row's step: (rows, 1, …), with as many axes as `like`, on its device."""
    shape = (-1, *[1] * (like.ndim - 1))
    alpha, sigma = (tensor(numbers, device=like.device) for numbers in zip(*(s.level for s in row_steps), strict=True))
    return alpha.reshape(shape), sigma.reshape(shape)
