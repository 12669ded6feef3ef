"""Caches that decide by the number of the step: DeepCache, TaylorSeer, MagCache."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from ..models.perturbable import PerturbableLayers
from ..taps.change import Chosen
from ..taps.memory import Decision, Entry, PassMemory
from .cache import CachedPass, at_least, entry_of, step_number
from .deep import DEEP, DeepLayerCache


class DeepCacheConfig(DeepLayerCache):
    """Compute the deep layers of a U-Net in every `cache_interval`-th step, and use their last output in the others.

    Ma et al. 2023, section 3.2. cache_interval: 1 skips nothing. cache_branch_id: how many residual blocks of the first
    level are computed in all steps; with 0, the input convolution and the last residual block alone.

    Raises:
        ConfigError: a model that is no U-Net, or with fewer residual blocks in a level.
    """

    adds: ClassVar[bool] = False

    cache_interval: int = 3
    cache_branch_id: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, cache_interval=1, cache_branch_id=0)

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is skipped."""
        return self.cache_interval == 1

    @property
    def depth(self) -> int:
        """The branch."""
        return self.cache_branch_id

    def select(self, layers: PerturbableLayers, chosen: Chosen, model: str) -> Sequence[str]:
        """Return the path of the U-Net itself."""
        if not layers.up_levels:
            raise ConfigError(
                f"DeepCacheConfig needs a U-Net, and {model} has no skips. Use first_block or taylorseer."
            )
        return super().select(layers, chosen, model)

    def plan(self, p: CachedPass, others: Any) -> Decision:
        """Decide by the interval."""
        number, _ = step_number(p.step)
        known = entry_of(p.memory, DEEP, len(p.latents)) is not None
        return Decision((DEEP,) if known and number % self.cache_interval else ())


class TaylorSeerCacheConfig(DeepLayerCache):
    """Continue the output of all blocks by its Taylor series over the steps (Liu et al. 2025, section 3.3).

    cache_interval: one step of so many is computed; 1 skips nothing. disable_cache_before_step,
    disable_cache_after_step: steps before and from these numbers are computed. max_order: the highest derivative.
    taylor_factors_dtype: in which the derivatives are kept; None for that of the model. (In diffusers the default is
    bfloat16, and the modules that are continued can be chosen: here it is the output of the last block, as in its lite
    mode.)
    """

    adds: ClassVar[bool] = False

    cache_interval: int = 5
    disable_cache_before_step: int = 3
    disable_cache_after_step: int | None = None
    max_order: int = 1
    taylor_factors_dtype: Literal["bfloat16", "float16", "float32"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, cache_interval=1, disable_cache_before_step=0, max_order=0)

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is skipped."""
        return self.cache_interval == 1

    def plan(self, p: CachedPass, others: Any) -> Decision:
        """Decide by the interval."""
        (number, _), before, after = step_number(p.step), self.disable_cache_before_step, self.disable_cache_after_step
        entry = entry_of(p.memory, DEEP, len(p.latents))
        computes = number < before or (number - before - 1) % self.cache_interval == 0
        if entry is None or computes or (after is not None and number >= after):
            return Decision((), (float(number),))
        return Decision((DEEP,), entry.numbers)

    def remembered(self, number: int, entry: Entry | None, value: Tensor, memory: PassMemory) -> Entry:
        """Compute the differences of each order, divided by the steps between."""
        factors = [value]
        if entry is not None:
            between = number - entry.numbers[0]
            for old in entry.results[: self.max_order]:
                factors.append((factors[-1] - old.to(value.dtype)) / between)
        dtype = getattr(torch, self.taylor_factors_dtype) if self.taylor_factors_dtype else value.dtype
        return Entry(tuple(factor.to(dtype) for factor in factors), (), memory.decided.numbers)

    def predicted(self, number: int, entry: Entry) -> Tensor:
        """Compute the series at this step."""
        offset = number - entry.numbers[0]
        total = torch.zeros_like(entry.results[0])
        for order, factor in enumerate(entry.results):
            total = total + factor * (offset**order / math.factorial(order))
        return total


class MagCacheConfig(DeepLayerCache):
    """Skip all blocks as long as the measured decline of their residuals adds up to little (MagCache, Ma et al. 2025).

    threshold: the largest sum of errors; 0 skips nothing. max_skip_steps: so many steps in a row may be skipped.
    retention_ratio: this fraction of the steps is computed at the start. mag_ratios: for each step, the magnitude of
    the residual relative to that of the step before. They are measured for a model; those of another number of steps
    are stretched. calibrate: skip nothing, and measure them: `mag_ratios` of the report.

    Raises:
        ConfigError: neither `mag_ratios` nor `calibrate`.
    """

    threshold: float = 0.06
    max_skip_steps: int = 3
    retention_ratio: float = 0.2
    mag_ratios: tuple[float, ...] | None = None
    calibrate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, threshold=0, max_skip_steps=0, retention_ratio=0)
        if not self.mag_ratios and not self.calibrate:
            raise ConfigError(
                "MagCacheConfig needs mag_ratios, measured for a model. Pass them (FLUX_MAG_RATIOS for Flux), "
                "or measure them in a run with calibrate=True."
            )

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is skipped."""
        return not self.calibrate and (self.threshold == 0 or self.max_skip_steps == 0)

    def plan(self, p: CachedPass, others: Any) -> Decision:
        """Decide by the sum of errors. The numbers are the product of ratios, the sum of errors, and skipped steps."""
        begin = (1.0, 0.0, 0.0)
        number, count = step_number(p.step)
        entry = entry_of(p.memory, DEEP, len(p.latents))
        if self.calibrate or number < int(self.retention_ratio * count + 0.5):
            return Decision((), begin)
        ratio, error, skipped = begin if entry is None else entry.numbers
        ratio *= stretched(self.mag_ratios or (), count)[number]
        error, skipped = error + abs(1 - ratio), skipped + 1
        if entry is None or error > self.threshold or skipped > self.max_skip_steps:
            return Decision((), begin)
        return Decision((DEEP,), (ratio, error, skipped))

    def remembered(self, number: int, entry: Entry | None, value: Tensor, memory: PassMemory) -> Entry:
        """Keep the residual, and measure its magnitude relative to the last one."""
        if self.calibrate:
            memory.ratio = 1.0
            if entry is not None:
                new, old = (torch.linalg.vector_norm(t.float(), dim=-1) for t in (value, entry.results[0]))
                memory.ratio = (new / (old + 1e-8)).mean().item()
        return super().remembered(number, entry, value, memory)


def stretched(ratios: Sequence[float], count: int) -> Sequence[float]:
    """Ratios for another number of steps: each step has those of the nearest one."""
    if len(ratios) == count:
        return ratios
    if count == 1:
        return ratios[-1:]
    return [ratios[round(i * (len(ratios) - 1) / (count - 1))] for i in range(count)]


FLUX_MAG_RATIOS = (
    1.0, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125, 1.02344, 0.98047, 1.01562,
    1.00781, 1.0, 1.00781, 1.0, 1.00781, 1.0, 1.0, 0.99609, 0.99609, 0.98047, 0.98828, 0.96484, 0.95703, 0.93359,
    0.89062,
)  # fmt: skip
"""The published ratios of Flux dev in 28 steps (MagCache)."""
