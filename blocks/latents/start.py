"""The start of a run: how many pictures, from which noise, along which schedule."""

import secrets
from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le

from ...components.models.autoencoder import Autoencoder
from ...components.random import Noise, Random
from ...components.schedulers import Scheduler
from ...components.schedulers.lcm import DistilledKeys, timesteps_within
from ...components.types import (
    Conditioning,
    Count,
    ImageLatents,
    Images,
    Latents,
    Mask,
    Number,
    PictureCount,
    Rows,
    Side,
    StepCount,
    Steps,
)
from ...graph import Block, component, knob
from ...graph.errors import UnfitValue
from ...graph.limits import AboveLimit, check_limit
from ...registry import counted

Seed = Annotated[int, Ge(-(2**63)), Le(2**64 - 1)]
"""A seed of torch's generators. torch adds 2**64 to one below 0."""


class Counted(NamedTuple):
    """The number of pictures."""

    rows: Rows


class CountRows(Block):
    """Count the pictures to make: `num_images_per_prompt` for each prompt."""

    def __call__(self, positive: Conditioning, num_images_per_prompt: PictureCount = 1) -> Counted:
        return Counted(Rows(positive.rows, num_images_per_prompt))


class Seeded(NamedTuple):
    """The random numbers of the run."""

    random: Random


class SeedRandom(Block):
    """Make the random numbers. seed: one for all pictures, a list with one for each, or None for a new one.

    noise: "cpu" draws as torch does on a CPU. "gpu" draws the numbers that torch has on a CUDA device, for pictures of
    programs that draw there; it works on any machine.

    Raises:
        UnfitValue: a list with another number of seeds than pictures.
    """

    random_without = ("seed",)

    noise: Noise = knob("cpu")

    def __call__(self, rows: Rows, seed: Seed | Sequence[Seed] | None = None) -> Seeded:
        if seed is None:
            return Seeded(Random.seeded([secrets.randbits(63)], self.noise))
        if isinstance(seed, int):
            return Seeded(Random.seeded([seed], self.noise))
        if len(seed) != rows.total:
            raise UnfitValue(
                f"seed has {counted(len(seed), 'number')} for {counted(rows.total, 'picture')}. "
                "Give one for all, or one each."
            )
        return Seeded(Random.seeded(list(seed), self.noise))


class Drawn(NamedTuple):
    """Noise of unit variance."""

    latents: Latents
    random: Random


class DrawNoise(Block):
    """Draw the noise that a run starts from: (pictures, channels, height / factor, width / factor), unit normal.

    height, width: of the picture in pixels, multiples of factor * patch. channels: of the latents. factor: pixels a
    side of a latent. patch: latents a side of a token of the denoiser.

    Raises:
        UnfitValue: a height or width that is no multiple, or more pixels than one call can draw.
    """

    channels: Count = 4
    factor: Count = 8
    patch: Count = 1
    height: Side = knob(512)
    width: Side = knob(512)

    def __call__(self, rows: Rows, random: Random) -> Drawn:
        try:
            check_limit("pixels", rows.total * self.height * self.width)
        except AboveLimit as error:
            what = f"{counted(rows.total, 'picture')} of {self.height}x{self.width}"
            raise UnfitValue(f"A call for {what} {error}") from None
        multiple = self.factor * self.patch
        for name, size in (("height", self.height), ("width", self.width)):
            if size % multiple:
                near = max(round(size / multiple), 1) * multiple
                raise UnfitValue(
                    f"{name}={size} cannot be made: it must be a multiple of {multiple}. The nearest is {near}."
                )
        return Drawn(*random.draw(rows.total, (self.channels, self.height // self.factor, self.width // self.factor)))


class DrawNoiseLike(Block):
    """Draw noise of the shape of an image's latents."""

    def __call__(self, image_latents: ImageLatents, random: Random) -> Drawn:
        return Drawn(*random.draw(len(image_latents), image_latents.shape[1:]))


class Discarded(NamedTuple):
    """The random numbers after the draw."""

    random: Random


class DiscardNoise(Block):
    """Draw the noise that encoding the masked image takes, and drop it: so seeds make the reference's pictures."""

    vae: Autoencoder[Any] = component()  # Any: whichever config its class has

    def __call__(self, pixels: Images, mask: Mask, random: Random) -> Discarded:
        if not self.vae.samples:
            return Discarded(random)
        rows = max(len(pixels), len(mask)) if random.single else len(random.states)
        height, width = (side // self.vae.scale_factor for side in pixels.shape[2:])
        return Discarded(random.draw(rows, (self.vae.latent_channels, height, width))[1])


class Scheduled(NamedTuple):
    """The steps of a run."""

    steps: Steps


class MakeSchedule(Block):
    """Make the schedule: `num_inference_steps` steps, or the `timesteps` or `sigmas` that are passed.

    Raises:
        UnfitValue: both `timesteps` and `sigmas`, or levels that the scheduler cannot use.
    """

    scheduler: Scheduler = component()
    num_inference_steps: StepCount = knob(50)

    def __call__(self, timesteps: Sequence[Number] | None = None, sigmas: Sequence[Number] | None = None) -> Scheduled:
        return Scheduled(self.scheduler.steps(self.num_inference_steps, timesteps=timesteps, sigmas=sigmas))


def exact(share: float) -> Fraction:
    """The decimal that was typed: 0.29 of 100 steps is 29, and not 28.999999999999996.

    >>> exact(0.29) * 100
    Fraction(29, 1)
    """
    return Fraction(repr(float(share)))


class CutSchedule(Block):
    """Keep only the last steps, so that an image changes by the share `strength`: above 0, and 1 is all of it.

    Raises:
        UnfitValue: a strength that leaves no step.
    """

    strength: Annotated[float, Gt(0), Le(1)] = knob(0.8)

    def __call__(self, steps: Steps) -> Scheduled:
        count = steps.places[-1] + 1
        kept = floor(count * exact(self.strength))
        if not kept:
            raise UnfitValue(
                f"strength={self.strength} of {counted(count, 'step')} leaves none. "
                f"Give strength={ceil(Fraction(1000, count)) / 1000:g} or more, or more steps."
            )
        return Scheduled(steps[steps.places.index(count - kept) :])


class SpreadSchedule(Block):
    """Spread all steps over the part of the noise that `strength` leaves, as published for consistency models.

    For a scheduler of another kind, and for `timesteps` that a call passed, it is `CutSchedule`. strength: above 0, and
    1 is all of the noise.

    Raises:
        UnfitValue: more steps than the part has timesteps.
    """

    scheduler: Scheduler = component()
    strength: Annotated[float, Gt(0), Le(1)] = knob(0.8)

    def __call__(self, steps: Steps) -> Scheduled:
        count = steps.places[-1] + 1
        if not isinstance(self.scheduler, DistilledKeys) or steps != self.scheduler.steps(count):
            return CutSchedule(strength=self.strength)(steps)
        timesteps = timesteps_within(self.scheduler, count, exact(self.strength))
        return Scheduled(self.scheduler.steps(count, timesteps=timesteps.tolist()))


class Started(NamedTuple):
    """The latents of the first step, and the steps, on the device of the conditioning."""

    latents: Latents
    steps: Steps


class ScaleNoise(Block):
    """Scale pure noise to the first level of the schedule.

    Raises:
        UnfitValue: another number of rows than pictures, or steps that begin later.
    """

    def __call__(self, latents: Latents, steps: Steps, positive: Conditioning, rows: Rows) -> Started:
        if steps.begin:
            raise UnfitValue(
                f"The steps begin with step {steps.places[steps.begin]}, and noise belongs before the first. To "
                "continue a run, pass all steps, and its output halfway as halfway=."
            )
        if len(latents) != rows.total:
            raise UnfitValue(
                f"latents has {counted(len(latents), 'row')} for {counted(rows.total, 'picture')}. Give one each."
            )
        device = positive.tokens.device
        return Started(latents.to(device).float() * steps.noise_scale, steps.to(device))


class NoiseImage(Block):
    """Start from an image, noised to the first level of the schedule (SDEdit, Meng et al. 2021, equation 4).

    Raises:
        UnfitValue: another number of images or of rows of noise than pictures.
    """

    scheduler: Scheduler = component()

    def __call__(
        self, image_latents: ImageLatents, latents: Latents, steps: Steps, positive: Conditioning, rows: Rows
    ) -> Started:
        if not len(latents) == len(image_latents) == rows.total:
            raise UnfitValue(
                f"Got {counted(len(image_latents), 'image')} and {counted(len(latents), 'row')} of noise for "
                f"{counted(rows.total, 'picture')}. Give one each."
            )
        device = positive.tokens.device
        noised = self.scheduler.add_noise(image_latents.to(device), latents.to(device), steps[0])
        return Started(noised, steps.to(device))


class NoiseImageFully(Block):
    """Start from an image, or from pure noise where the schedule has all its steps (strength 1).

    Raises:
        UnfitValue: as `NoiseImage` and `ScaleNoise`.
    """

    scheduler: Scheduler = component()

    def __call__(
        self, image_latents: ImageLatents, latents: Latents, steps: Steps, positive: Conditioning, rows: Rows
    ) -> Started:
        if steps.begin == 0:
            return Started(*ScaleNoise()(latents, steps, positive, rows))
        return Started(*NoiseImage(scheduler=self.scheduler)(image_latents, latents, steps, positive, rows))
