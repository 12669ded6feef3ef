"""Tokens of a transformer divided over processes, and attention of all of them to all (context parallelism).

Ulysses (Jacobs et al. 2023): processes exchange tokens for heads, so that each has all tokens of some heads. Ring (Liu
et al. 2023): keys and values go from process to process, and each merges its partial softmax. Both may be used at once
(Fang & Zhao 2024).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..engines.programs import Programs
from ..engines.tree import changed_inside
from ..models.attention import AttentionCore
from ..models.deep_layers import LayeredDenoiser
from ..models.perturbable import HasPerturbableLayers
from ..models.views import Replacement, combined_class, shallow_copy, view
from .processes import Group, Processes
from .ring import ring_attention


@dataclass(frozen=True)
class Counts:
    """How many tokens each process has: those of the picture, and of the prompt."""

    picture: tuple[int, ...]
    prompt: tuple[int, ...]

    @property
    def both(self) -> tuple[int, ...]:
        """The tokens of picture and prompt together."""
        return tuple(a + b for a, b in zip(self.picture, self.prompt, strict=True))


def even(total: int, parts: int) -> tuple[int, ...]:
    """Divide a number; the first parts get the rest.

    >>> even(10, 4)
    (3, 3, 2, 2)
    """
    return tuple(total // parts + (part < total % parts) for part in range(parts))


def own_part(counts: Sequence[int], place: int, t: Tensor) -> Tensor:
    """The tokens `b n …` of one process."""
    return t.split(list(counts), dim=1)[place]


def gathered(mine: Tensor, counts: Sequence[int], group: Group) -> Tensor:
    """The tokens `b n …` of all processes. Shorter parts are padded on the way."""
    widest = max(counts)
    padded = pad(mine, (0, 0) * (mine.ndim - 2) + (0, widest - mine.shape[1]))
    return torch.cat([t[:, :count] for t, count in zip(group.gather(padded), counts, strict=True)], dim=1)


class DividedAttention(AttentionCore):
    """Attention of the tokens of this process to those of all. It is around all other changes of the layer."""

    processes: Processes
    counts: tuple[int, ...]

    def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int = 0) -> Tensor:
        """Compute attention for queries, keys and values of this process, `b heads n d`."""
        heads, ring = self.processes.heads, self.processes.ring
        of_ring = [sum(self.counts[i * heads.size : (i + 1) * heads.size]) for i in range(ring.size)]
        own = self.counts[ring.place * heads.size : (ring.place + 1) * heads.size]
        if heads.size > 1:
            q, k, v = tokens_for_heads(torch.stack([q, k, v]), own, heads).unbind()
        if ring.size > 1:
            made = ring_attention(q, k, v, of_ring, ring, self.kernel)
        else:
            made = super().scaled_dot_product(q, k, v, mask, start)
        return heads_for_tokens(made, own, heads) if heads.size > 1 else made


def tokens_for_heads(x: Tensor, counts: Sequence[int], group: Group) -> Tensor:
    """Exchange `… heads n d` of own tokens for all tokens of some heads: `… heads/size sum(counts) d`."""
    parts = x.chunk(group.size, dim=-3)
    shapes = [(*x.shape[:-3], x.shape[-3] // group.size, count, x.shape[-1]) for count in counts]
    got = group.exchange(parts, [torch.Size(shape).numel() for shape in shapes])
    return torch.cat([t.view(shape) for t, shape in zip(got, shapes, strict=True)], dim=-2)


def heads_for_tokens(x: Tensor, counts: Sequence[int], group: Group) -> Tensor:
    """The inverse of `tokens_for_heads`."""
    parts = x.split(list(counts), dim=-2)
    shape = parts[group.place].shape
    got = group.exchange(parts, [shape.numel()] * group.size)
    return torch.cat([t.view(shape) for t in got], dim=-3)


class DividedTokens:
    """The tokens of one model, divided over processes; shared by all views of the model."""

    def __init__(self, processes: Processes, programs: Programs) -> None:
        self.processes, self.programs = processes, programs
        self.known: nn.Module | None = None
        self._unfit: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._views: WeakKeyDictionary[nn.Module, dict[Counts, Any]] = WeakKeyDictionary()

    def run(self, model: Any, stream: Any, layers: Callable[[Any, Any], Any]) -> Any:
        """Run layers for the tokens of this process, and gather the result; or for all tokens, where that is needed.

        model, stream: of any family. layers: a function of both.
        """
        prompts, group = _prompts(model, stream), self.processes.context
        if reason := self._reason(model, stream, prompts, group.size):
            self.programs.fall_back(reason)
            return layers(model, stream)
        counts = Counts(even(stream.x.shape[1], group.size), even(prompts, group.size))
        place = group.place
        own = model.map_tokens(
            stream, partial(own_part, counts.picture, place), partial(own_part, counts.prompt, place)
        )
        made = layers(self._view(model, counts), own)
        self.programs.report.ran += 1
        joined = stream._replace(x=gathered(made.x, counts.picture, group))
        return joined._replace(context=gathered(made.context, counts.prompt, group)) if prompts else joined

    def _reason(self, model: nn.Module, stream: Any, prompts: int, size: int) -> str:
        """Why each process must compute all tokens; "" if it need not."""
        if (found := self._unfit.get(model)) is None:
            assert self.known is not None
            other = changed_inside(self.known, model)
            found = self._unfit[model] = f"the call changes layers: {other[0]}" if other else ""
        if found:
            return found
        fewest = min(stream.x.shape[1], prompts or size)
        return f"it has {fewest} tokens for {size} processes" if fewest < size else ""

    def _view(self, model: Any, counts: Counts) -> Any:
        """The view of a model whose attention exchanges tokens, made once for each number of them."""
        made = self._views.setdefault(model, {})
        if counts not in made:
            while len(made) >= 8:
                del made[next(iter(made))]
            made[counts] = self._made(model, counts)
        return made[counts]

    def _made(self, model: HasPerturbableLayers, counts: Counts) -> nn.Module:
        layers, changed = model.perturbable_layers(), dict[str, Replacement]()
        known: Any = model
        for block in layers.blocks:
            for name in dict.fromkeys(layers.attention):
                if name not in layers.cross_attention and known.get_submodule(block)._modules.get(name) is not None:
                    joint = name in layers.joint_attention
                    changed[f"{block}.{name}"] = self._attention(counts.both if joint else counts.picture)
        return view(known, changed)

    def _attention(self, counts: tuple[int, ...]) -> Replacement:
        def change(layer: nn.Module) -> nn.Module:
            twin = shallow_copy(layer, combined_class(DividedAttention, type(layer)))
            twin.__dict__.update(processes=self.processes, counts=counts)
            return twin

        return change

    def __deepcopy__(self, memo: object) -> "DividedTokens":
        return self


def _prompts(model: Any, stream: Any) -> int:
    """How many tokens of the prompt are divided; 0 where they stay whole."""
    seen = 0

    def same(t: Tensor) -> Tensor:
        return t

    def count(t: Tensor) -> Tensor:
        nonlocal seen
        seen = t.shape[1]
        return t

    model.map_tokens(stream, same, count)
    return seen


class DividedDenoiser(LayeredDenoiser[Any]):
    """A transformer whose layers run for the tokens of this process; the first class of such a model.

    Tokens are whole outside of the layers. So step caches see all of them, and decide alike in all processes.
    """

    divided_tokens: DividedTokens

    def before_deep(self, stream: Any, depth: int) -> Any:
        """Run the first layers."""
        if not depth or stream.x.is_meta:
            return super().before_deep(stream, depth)
        return self.divided_tokens.run(self, stream, lambda model, part: model._before(part, depth))

    def run_deep(self, stream: Any, depth: int) -> Any:
        """Run the other layers."""
        if stream.x.is_meta:
            return super().run_deep(stream, depth)
        return self.divided_tokens.run(self, stream, lambda model, part: model._deep(part, depth))

    def _before(self, stream: Any, depth: int) -> Any:
        return super().before_deep(stream, depth)

    def _deep(self, stream: Any, depth: int) -> Any:
        return super().run_deep(stream, depth)
