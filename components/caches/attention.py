"""Caches of attention: Pyramid Attention Broadcast and FasterCache."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..models.transformer_layers import TwoStreams
from ..models.views import Replacement, combined_class, shallow_copy
from ..taps.memory import Decision, Entry, PassMemory
from ..taps.place import Forward, Part, Place, TappedBlock
from .cache import Ask, CachedPass, StepCache, at_least

Range = tuple[float, float]
"""Timesteps between these two, without them."""
ENTRY = ""
"""The name of the entry with the number of the step, and of what a pass keeps besides attention."""
PASS = "pass"
"""The part of a whole pass: one that skips it is not predicted."""


def is_between(timestep: float, between: Range) -> bool:
    """Whether a timestep lies inside a range."""
    return between[0] < timestep < between[1]


def count_of(memory: PassMemory) -> int:
    """The number of steps in a row in which the pass was there before this one."""
    entry = memory.before.get(ENTRY)
    return 0 if entry is None else int(entry.numbers[0])


class AttentionCache(StepCache, abstract=True):
    """A cache that uses the output of attention layers of the steps before."""

    part: ClassVar[Part] = "attention"
    unit: ClassVar[str] = "attention layers"

    @abstractmethod
    def keeps(self, kind: str) -> bool:
        """Whether it changes attention of a kind: "self" (joint attention too) or "cross"."""
        ...

    def reused(self, entry: Entry, parts: int) -> tuple[Tensor, ...]:
        """The output in a step that is skipped: as many tensors as the layer has outputs."""
        return entry.results[-parts:]

    def kept(self, entry: Entry | None, outputs: tuple[Tensor, ...]) -> Entry:
        """The entry after a step, with the outputs of the layer."""
        return Entry(outputs)

    def replacements(self, block: TappedBlock) -> Mapping[str, Replacement]:
        """Return the attention layers of a block that are changed."""
        places = [place for place in block.parts("attention") if self.keeps(_kind(place))]
        return {place.path: partial(self.replaced, at=place) for place in places}

    def replaced(self, layer: nn.Module, at: Place) -> nn.Module:
        """Return the layer with a memory of its output."""
        twin = shallow_copy(layer, combined_class(KeptAttention, type(layer)))
        twin.__dict__.update(cache=self, at=at)
        return twin


def _kind(place: Place) -> Literal["self", "cross"]:
    return "cross" if place.kind == "cross" else "self"


class KeptAttention(nn.Module):
    """An attention layer that returns what it returned in the step before, where its passes skip it."""

    cache: AttentionCache
    at: Place

    def forward(self, *inputs: Any) -> Any:
        """Compute attention, or take it from the memory of the passes."""
        forward: Forward | None = self.at.current.found
        memories = forward.memories_of(self.cache) if forward is not None else ()
        if forward is None or not memories:
            return super().forward(*inputs)
        path = self.at.path
        if _kind(self.at) in memories[0].decided.skips:
            parts = 2 if getattr(self, "two_streams", isinstance(self, TwoStreams)) else 1
            each = [self.cache.reused(memory.before[path], parts) for memory in memories]
            outputs = each[0] if len(each) == 1 else tuple(map(torch.cat, zip(*each, strict=True)))
            skipped, whole = 1, outputs if parts == 2 else outputs[0]
        else:
            whole = super().forward(*inputs)
            skipped, outputs = 0, whole if isinstance(whole, tuple) else (whole,)
        for p, memory in zip(forward.passes, memories, strict=True):
            memory.after[path] = self.cache.kept(memory.before.get(path), tuple(t[p.rows] for t in outputs))
            memory.skipped += skipped
            memory.layers += 1
        return whole


class PyramidAttentionBroadcastConfig(AttentionCache):
    """Compute attention in every n-th step, and use its last output in the others (Zhao et al. 2024, section 3.2).

    spatial_attention_block_skip_range, cross_attention_block_skip_range: n for self-attention (joint attention too) and
    for attention to the prompt; None computes it always. With neither, n is 2 for self-attention.
    spatial_attention_timestep_skip_range, cross_attention_timestep_skip_range: the timesteps in which it may be
    skipped, from 0 to 1000.
    """

    spatial_attention_block_skip_range: int | None = None
    cross_attention_block_skip_range: int | None = None
    spatial_attention_timestep_skip_range: Range = (100, 800)
    cross_attention_timestep_skip_range: Range = (100, 800)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, spatial_attention_block_skip_range=1, cross_attention_block_skip_range=1)
        if self.spatial_attention_block_skip_range is None and self.cross_attention_block_skip_range is None:
            object.__setattr__(self, "spatial_attention_block_skip_range", 2)

    @property
    def _ranges(self) -> Mapping[str, tuple[int, Range]]:
        every = {"self": self.spatial_attention_block_skip_range, "cross": self.cross_attention_block_skip_range}
        inside = {
            "self": self.spatial_attention_timestep_skip_range,
            "cross": self.cross_attention_timestep_skip_range,
        }
        return {kind: (count, inside[kind]) for kind, count in every.items() if count is not None}

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is skipped."""
        return all(count == 1 for count, _ in self._ranges.values())

    def keeps(self, kind: str) -> bool:
        """Whether it changes attention of a kind."""
        return kind in self._ranges

    def plan(self, p: CachedPass, others: Any) -> Decision:
        """Decide by the number of steps since the pass began."""
        done = count_of(p.memory)
        p.memory.after[ENTRY] = Entry(numbers=(done + 1,))
        skips = [
            kind
            for kind, (every, between) in self._ranges.items()
            if done % every and is_between(p.step.timestep, between)
        ]
        return Decision(tuple(skips))


class FasterCacheConfig(AttentionCache):
    """Continue self-attention of the last two steps, and make the negative prediction of the positive one.

    Lv et al. 2024, equations 5, 9 and 10. spatial_attention_block_skip_range, spatial_attention_timestep_skip_range: as
    in `PyramidAttentionBroadcastConfig`. attention_weight: how far the change of the last two steps is continued.
    unconditional_batch_skip_range, unconditional_batch_timestep_skip_range: the same for the negative pass. A negative
    prediction that is not computed is the positive one and the last differences of low and high frequencies between
    them. In each such step these grow by alpha_low_frequency within low_frequency_weight_update_timestep_range, and by
    alpha_high_frequency within high_frequency_weight_update_timestep_range. In steps with a negative pass attention is
    computed, as in diffusers. A call of a guider without a negative pass only skips attention.
    """

    spatial_attention_block_skip_range: int = 2
    spatial_attention_timestep_skip_range: Range = (-1, 681)
    low_frequency_weight_update_timestep_range: Range = (99, 901)
    high_frequency_weight_update_timestep_range: Range = (-1, 301)
    alpha_low_frequency: float = 1.1
    alpha_high_frequency: float = 1.1
    unconditional_batch_skip_range: int = 5
    unconditional_batch_timestep_skip_range: Range = (-1, 641)
    attention_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, spatial_attention_block_skip_range=1, unconditional_batch_skip_range=1)

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is skipped."""
        return self.spatial_attention_block_skip_range == self.unconditional_batch_skip_range == 1

    def keeps(self, kind: str) -> bool:
        """Whether it changes attention of a kind: self-attention."""
        return kind == "self" and self.spatial_attention_block_skip_range > 1

    def reused(self, entry: Entry, parts: int) -> tuple[Tensor, ...]:
        """Continue the change between the last two outputs."""
        pairs = zip(entry.results[:parts], entry.results[parts:], strict=True)
        return tuple(new + (new - old) * self.attention_weight for old, new in pairs)

    def kept(self, entry: Entry | None, outputs: tuple[Tensor, ...]) -> Entry:
        """Keep the last two outputs."""
        before = outputs if entry is None else entry.results[-len(outputs) :]
        return Entry((*before, *outputs))

    def plan(self, p: CachedPass, others: Sequence[CachedPass]) -> Decision:
        """Decide by the number of steps since the pass began, for the negative pass and then for attention."""
        done, negative = count_of(p.memory), _negative(others)
        if p.role == "negative":
            skips = (PASS,) if self._skips_negative(p, others) else ()
            p.memory.after[ENTRY] = Entry(p.memory.before.get(ENTRY, Entry()).results, (), (done + 1,))
            return Decision(skips)
        p.memory.after[ENTRY] = Entry((), (), (done + 1,))
        may = negative is None or self._skips_negative(negative, others)
        inside = is_between(p.step.timestep, self.spatial_attention_timestep_skip_range)
        skips = ("self",) if may and inside and done % self.spatial_attention_block_skip_range else ()
        return Decision(skips)

    def _skips_negative(self, p: CachedPass, others: Sequence[CachedPass]) -> bool:
        done, between = count_of(p.memory), self.unconditional_batch_timestep_skip_range
        kept = p.memory.before.get(ENTRY)
        known = kept is not None and len(kept.results) == 2 and len(kept.results[0]) == len(p.latents)
        skips = bool(done % self.unconditional_batch_skip_range) and is_between(p.step.timestep, between)
        return known and skips and _partner(p, others) is not None

    def predict(self, passes: Sequence[CachedPass], ask: Ask) -> Sequence[Tensor]:
        """Make negative predictions that are not computed of the positive ones."""
        indices = [i for i, p in enumerate(passes) if PASS not in p.memory.decided.skips]
        found = dict(zip(indices, ask(indices), strict=True))
        for i, p in enumerate(passes):
            if p.role != "negative" or (partner := _partner(p, passes)) is None:
                continue
            positive = split_frequencies(found[partner].float())
            if i in found:
                deltas = [a - b for a, b in zip(split_frequencies(found[i].float()), positive, strict=True)]
            else:
                kept = p.memory.before[ENTRY].results
                deltas = [torch.view_as_complex(t) * weight for t, weight in zip(kept, self._weights(p), strict=True)]
                low, high = (delta + part for delta, part in zip(deltas, positive, strict=True))
                found[i] = torch.fft.ifft2(torch.fft.ifftshift(low + high)).real.to(found[partner].dtype)
                p.memory.skipped = p.memory.layers = passes[partner].memory.layers
            numbers = p.memory.after[ENTRY].numbers
            p.memory.after[ENTRY] = Entry(tuple(map(torch.view_as_real, deltas)), (), numbers)
        return [found[i] for i in range(len(passes))]

    def _weights(self, p: CachedPass) -> tuple[float, float]:
        low = is_between(p.step.timestep, self.low_frequency_weight_update_timestep_range)
        high = is_between(p.step.timestep, self.high_frequency_weight_update_timestep_range)
        return self.alpha_low_frequency if low else 1.0, self.alpha_high_frequency if high else 1.0


def _negative(passes: Sequence[CachedPass]) -> CachedPass | None:
    return next((p for p in passes if p.role == "negative"), None)


def _partner(p: CachedPass, passes: Sequence[CachedPass]) -> int | None:
    """The number of the positive pass that belongs to a negative one: of as many of both, that of the same place."""
    negative, positive = ([i for i, o in enumerate(passes) if o.role == role] for role in ("negative", "positive"))
    if len(negative) != len(positive):
        return None
    place = next(k for k, i in enumerate(negative) if passes[i].memory is p.memory)
    found = positive[place]
    return found if passes[found].latents.shape == p.latents.shape else None


def split_frequencies(x: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high frequencies of `b c h w`, the lowest in the middle.

    Low ones are within a fifth of the shorter side.
    """
    spectrum = torch.fft.fftshift(torch.fft.fft2(x))
    height, width = x.shape[-2:]
    rows, columns = (torch.arange(side, device=x.device) - side // 2 for side in (height, width))
    low = rows[:, None] ** 2 + columns**2 <= (min(height, width) // 5) ** 2
    return spectrum * low, spectrum * ~low
