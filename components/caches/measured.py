"""Caches that compare this step with an earlier one: First Block Cache, TeaCache, SeaCache."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from ..models.deep_layers import LayeredDenoiser
from ..schedulers.schedule import Level
from ..taps.memory import Decision, Entry, PassMemory
from .cache import CachedPass, at_least, entry_of, relative_change, step_number
from .deep import DEEP, DeepLayerCache


class FirstBlockCacheConfig(DeepLayerCache):
    """Skip all blocks but the first while what the first one adds hardly changes (ParaAttention, Cheng 2024).

    threshold: the largest relative change since the last computed step, for which the others are skipped. 0 skips
    nothing. In a U-Net the first block is the first residual block of the first level, with its transformer.
    """

    keeps_moving: ClassVar[bool] = False

    threshold: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, threshold=0)

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is skipped."""
        return self.threshold == 0

    @property
    def depth(self) -> int:
        """One block."""
        return 1

    def indicator(self, model: LayeredDenoiser[Any], x: Tensor, stream: Any) -> Tensor:
        """The residual of the first block."""
        return stream.x - x

    def distance(self, new: Tensor, old: Tensor) -> Tensor:
        """The relative change of the residual."""
        return relative_change(new, old)

    def decide(self, number: int, count: int, entry: Entry, distance: float) -> Decision:
        """Skip up to the threshold."""
        return Decision((DEEP,) if distance <= self.threshold else ())


class TeaCacheConfig(DeepLayerCache):
    """Skip all blocks while the modulated input of the first one has moved little (Liu et al. 2024, section 3.3).

    The relative changes of the steps are mapped by a polynomial and summed up since the last computed step. The first
    and the last step are computed. rel_l1_thresh: the sum from which a step is computed; 0 skips nothing. coefficients:
    of the polynomial, the highest power first, as published for a model; the default leaves the change as it is.

    Raises:
        ConfigError: a model that modulates no inputs, such as a U-Net.
    """

    reads_modulation: ClassVar[bool] = True

    rel_l1_thresh: float = 0.2
    coefficients: tuple[float, ...] = (1.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, rel_l1_thresh=0)
        if not self.coefficients:
            raise ConfigError("TeaCacheConfig.coefficients is empty. Pass (1.0, 0.0) for the change as it is.")

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is skipped."""
        return self.rel_l1_thresh == 0

    def indicator(self, model: LayeredDenoiser[Any], x: Tensor, stream: Any) -> Tensor:
        """The modulated input of the first block."""
        found = model.modulated(stream)
        if found is None:  # `select` refuses such a model
            raise ConfigError(f"{type(model).__name__} modulates no inputs.")
        return found

    def distance(self, new: Tensor, old: Tensor) -> Tensor:
        """The relative change of the modulated input."""
        return relative_change(new, old)

    def first(self, number: int, count: int) -> Decision:
        """Begin a sum."""
        return Decision((), (0.0,))

    def decide(self, number: int, count: int, entry: Entry, distance: float) -> Decision:
        """Skip while the sum is below the threshold."""
        mapped = 0.0
        for coefficient in self.coefficients:
            mapped = mapped * distance + coefficient
        total = entry.numbers[0] + mapped
        if number in (0, count - 1) or not total < self.rel_l1_thresh:
            return Decision((), (0.0,))
        return Decision((DEEP,), (total,))


class SeaCacheConfig(DeepLayerCache):
    """Skip all blocks while the filtered latents have moved little (SeaCache, arXiv 2602.18993).

    The filter keeps the frequencies of which the model has made a picture at this noise level already (equation 7).
    Relative changes are summed up since the last computed step. threshold: the sum from which a step is computed; 0
    skips nothing. residual_order: 0 uses the last result, 1 continues the line through the last two. retention_steps,
    cache_end_steps: so many steps at the start and the end are computed. max_consecutive_cached: so many steps in a row
    may be skipped; 0 is no limit. power_exp: of the power of pictures by frequency.
    """

    threshold: float = 0.25
    residual_order: Literal[0, 1] = 1
    retention_steps: int = 1
    cache_end_steps: int = 1
    max_consecutive_cached: int = 2
    power_exp: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, threshold=0, retention_steps=0, cache_end_steps=0, max_consecutive_cached=0)
        if not self.power_exp > 0:
            raise ConfigError(f"SeaCacheConfig.power_exp needs a number above 0, got {self.power_exp}.")

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is skipped."""
        return self.threshold == 0

    def plan(self, p: CachedPass, others: Any) -> Decision:
        """Decide by the latents."""
        p.memory.indicator = new = sea_filter(p.latents, p.step.level, self.power_exp)
        entry, (number, count) = entry_of(p.memory, DEEP, len(new)), step_number(p.step)
        if entry is None or entry.indicators[0].shape != new.shape:
            return Decision((), (0.0, 0.0, float(number)))
        total, skipped, *known = entry.numbers
        computed = Decision((), (0.0, 0.0, *known[-self.residual_order :][: self.residual_order], float(number)))
        if number < self.retention_steps or number >= count - self.cache_end_steps:
            return computed
        if self.max_consecutive_cached and skipped >= self.max_consecutive_cached:
            return computed
        total += relative_change(new, entry.indicators[0]).max().item()
        return Decision((DEEP,), (total, skipped + 1, *known)) if total < self.threshold else computed

    def remembered(self, number: int, entry: Entry | None, value: Tensor, memory: PassMemory) -> Entry:
        """Keep the last results, as many as the order needs."""
        before = entry.results[-1:] if entry is not None and self.residual_order else ()
        return Entry((*before, value), (), memory.decided.numbers)

    def predicted(self, number: int, entry: Entry) -> Tensor:
        """Continue the line through the last two results."""
        last = entry.results[-1]
        if len(entry.results) < 2:
            return last
        *_, first_step, last_step = entry.numbers
        return last + (last - entry.results[-2]) * ((number - last_step) / (last_step - first_step))


def sea_filter(latents: Tensor, level: Level, power: float) -> Tensor:
    """Weigh the frequencies of latents by their share of signal at a noise level, with mean weight 1."""
    gains: list[Tensor] = []
    signal, noise = (min(max(part, 1e-6), 1e6) for part in level)
    for side in latents.shape[2:]:
        frequencies = torch.fft.fftfreq(side, device=latents.device)
        clean = 1 / (frequencies.abs() ** power + 1e-16)
        gains.append(signal * clean / (signal**2 * clean + noise**2 + 1e-16))
    gain = gains[0][:, None] * gains[1]
    spectrum = torch.fft.fft2(latents.float()) * (gain / gain.mean())
    return torch.fft.ifft2(spectrum).real
