"""How many pictures, from which noise, along which schedule."""

import secrets
from collections.abc import Sequence
from math import ceil
from typing import Annotated, NamedTuple

from annotated_types import Ge, Gt, Le

from ...components.random import Random
from ...components.schedulers import Scheduler
from ...components.types import Conditioning, ImageLatents, Images, Latents, Mask, Number, Rows, Steps
from ...graph import Block, component, knob
from ...registry import counted

Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(-(2**63)), Le(2**64 - 1)]
"""What a generator of torch takes: those below 0 are counted from 2**64, as torch does."""


class Counted(NamedTuple):
    rows: Rows


class CountRows(Block):
    """Say how many pictures to make: `num_images_per_prompt` of each prompt."""

    def __call__(self, positive: Conditioning, num_images_per_prompt: Count = 1) -> Counted:
        return Counted(Rows(positive.rows, num_images_per_prompt))


class Seeded(NamedTuple):
    random: Random


class SeedRandom(Block):
    """Begin the random numbers: one seed for all pictures, a list with one for each, or None for a fresh one."""

    def __call__(self, rows: Rows, seed: Seed | Sequence[Seed] | None = None) -> Seeded:
        if seed is None:
            return Seeded(Random.seeded([secrets.randbits(63)]))
        if isinstance(seed, int):
            return Seeded(Random.seeded([seed]))
        if len(seed) != rows.total:
            told = f"seed has {counted(len(seed), 'number')} for {counted(rows.total, 'picture')}"
            raise ValueError(f"{told}. Give one for all, or one each.")
        return Seeded(Random.seeded(list(seed)))


class Drawn(NamedTuple):
    latents: Latents
    random: Random


class DrawNoise(Block):
    """Draw the noise that pictures will come from: (images, channels, height / factor, width / factor), unit normal.

    patch: how many latents a side go into one token of the denoiser; sizes are multiples of that many.
    """

    channels: int = 4
    factor: int = 8
    patch: int = 1
    height: Count = knob(512)
    width: Count = knob(512)

    def __call__(self, rows: Rows, random: Random) -> Drawn:
        multiple = self.factor * self.patch
        for name, size in (("height", self.height), ("width", self.width)):
            if size % multiple:
                near = max(round(size / multiple), 1) * multiple
                raise ValueError(
                    f"{name}={size} cannot be made: it must be a multiple of {multiple}. The nearest is {near}."
                )
        return Drawn(*random.draw(rows.total, (self.channels, self.height // self.factor, self.width // self.factor)))


class DrawNoiseLike(Block):
    """Draw noise of the shape of an image's latents."""

    def __call__(self, image_latents: ImageLatents, random: Random) -> Drawn:
        return Drawn(*random.draw(len(image_latents), image_latents.shape[1:]))


class Spent(NamedTuple):
    random: Random


class DiscardNoise(Block):
    """Draw as much noise as encoding the masked image takes, and drop it: keeps the order of draws that others have."""

    def __call__(self, pixels: Images, mask: Mask, image_latents: ImageLatents, random: Random) -> Spent:
        rows = max(len(pixels), len(mask)) if random.single else len(random.states)
        return Spent(random.draw(rows, image_latents.shape[1:])[1])


class Scheduled(NamedTuple):
    steps: Steps


class MakeSchedule(Block):
    """Choose the noise levels to visit: `num_inference_steps` of them, or those that `timesteps` or `sigmas` say."""

    scheduler: Scheduler = component()
    num_inference_steps: Count = knob(50)

    def __call__(self, timesteps: Sequence[Number] | None = None, sigmas: Sequence[Number] | None = None) -> Scheduled:
        return Scheduled(self.scheduler.steps(self.num_inference_steps, timesteps=timesteps, sigmas=sigmas))


class CutSchedule(Block):
    """Keep only the last part of the steps, so that an image is changed by `strength`: 1 is anew, near 0 hardly."""

    strength: Annotated[float, Gt(0), Le(1)] = knob(0.8)

    def __call__(self, steps: Steps) -> Scheduled:
        whole = steps.whole_step_of[-1] + 1
        kept = min(int(whole * self.strength), whole)
        if not kept:
            way_out = f"Give strength={ceil(1000 / whole) / 1000:g} or more, or more steps"
            raise ValueError(f"strength={self.strength} of {counted(whole, 'step')} leaves none. {way_out}.")
        return Scheduled(steps[steps.whole_step_of.index(whole - kept) :])


class Started(NamedTuple):
    latents: Latents
    steps: Steps


class ScaleNoise(Block):
    """Bring pure noise to the first level of the schedule, on the device that the conditioning is on."""

    def __call__(self, latents: Latents, steps: Steps, positive: Conditioning) -> Started:
        if len(latents) != positive.rows:
            told = f"latents has {counted(len(latents), 'row')} for {counted(positive.rows, 'picture')}"
            raise ValueError(f"{told}. Give one each.")
        device = positive.tokens.device
        return Started(latents.to(device).float() * steps.noise_scale, steps.to(device))


class NoiseImage(Block):
    """Start from an image instead of pure noise (SDEdit, Meng et al. 2021, eq. 4)."""

    scheduler: Scheduler = component()

    def __call__(self, image_latents: ImageLatents, latents: Latents, steps: Steps, positive: Conditioning) -> Started:
        if not len(latents) == len(image_latents) == positive.rows:
            came = f"{counted(len(image_latents), 'image')} and {counted(len(latents), 'row')} of noise came"
            raise ValueError(f"{came} for {counted(positive.rows, 'picture')}. Give one each.")
        device = positive.tokens.device
        noised = self.scheduler.add_noise(image_latents.to(device), latents.to(device), steps[0])
        return Started(noised, steps.to(device))


class NoiseImageFully(Block):
    """Start from an image, or from pure noise where no step of the schedule is left out (strength 1)."""

    scheduler: Scheduler = component()

    def __call__(self, image_latents: ImageLatents, latents: Latents, steps: Steps, positive: Conditioning) -> Started:
        if steps.begin == 0:
            return Started(*ScaleNoise()(latents, steps, positive))
        return Started(*NoiseImage(scheduler=self.scheduler)(image_latents, latents, steps, positive))
