"""Further seeds of a run, as A1111's web UI has them: a variation of the first noise, and a seed for later draws."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...components.random import Random
from ...components.types import Latents, ZeroToOne
from ...graph import Block, knob
from .start import Seed


class Varied(NamedTuple):
    """Noise of unit variance."""

    latents: Latents


class VaryNoise(Block):
    """Mix the noise of a run with that of another seed, along the arc between them (slerp).

    variation_seed: the other seed. variation_strength: 0 for the run's own noise, 1 for the other. As in A1111's web
    UI, angles are between the columns of each channel.
    """

    variation_seed: Seed = knob(0)
    variation_strength: ZeroToOne = knob(0.0)

    def __call__(self, latents: Latents, random: Random) -> Varied:
        if not self.variation_strength:
            return Varied(latents)
        other, _ = Random.seeded([self.variation_seed], random.noise).draw(1, latents.shape[1:])
        return Varied(slerp(self.variation_strength, latents, other.to(latents).expand_as(latents)))


class Reseeded(NamedTuple):
    """The random numbers of later draws."""

    random: Random


class ReseedRandom(Block):
    """Draw the noise of the steps from other seeds than the first noise: each is `seed_delta` above the run's.

    A1111's web UI calls the number ENSD. It changes samplers that draw in each step.
    """

    seed_delta: int = knob(0)

    def __call__(self, random: Random, seed: Seed | Sequence[Seed] | None = None) -> Reseeded:
        if seed is None or not self.seed_delta:
            return Reseeded(random)
        seeds = [seed] if isinstance(seed, int) else list(seed)
        return Reseeded(Random.seeded([one + self.seed_delta for one in seeds], random.noise))


def slerp(amount: float, low: Tensor, high: Tensor) -> Tensor:
    """From `low` (amount 0) to `high` (1) along the arcs between their columns (Shoemake 1985).

    Tensors that are nearly parallel are mixed along a line.
    """
    first, second = (t / t.norm(dim=-2, keepdim=True) for t in (low, high))
    cosine = (first * second).sum(-2, keepdim=True)
    if float(cosine.mean()) > 0.9995:
        return low * (1 - amount) + high * amount
    angle = torch.acos(cosine.clamp(-1, 1))
    return (torch.sin((1 - amount) * angle) * low + torch.sin(amount * angle) * high) / torch.sin(angle)
