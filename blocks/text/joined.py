"""Two encoded prompts as one: their tokens behind each other, or mixed."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...components.types import Conditioning, ZeroToOne
from ...graph import Block, knob
from ...graph.errors import UnfitValue
from ...registry import counted


class Joined(NamedTuple):
    """One encoded prompt."""

    conditioning: Conditioning


class ConcatConditioning(Block):
    """Put the tokens of a second prompt behind those of the first. The pooled embedding of the first is kept.

    Raises:
        UnfitValue: other numbers of rows, or a second prompt that changes over the steps.
    """

    def __call__(self, conditioning: Conditioning, other: Conditioning) -> Joined:
        def joined(one: Conditioning, second: Conditioning) -> Conditioning:
            names = [name for name in ("tokens", "mask") if isinstance(getattr(one, name, None), Tensor)]
            return replace(one, **{name: torch.cat([getattr(one, name), getattr(second, name)], 1) for name in names})

        return Joined(_with_other(conditioning, other, joined))


class MixConditioning(Block):
    """Mix the tokens of two prompts, and what is pooled of them: share * first + (1 - share) * second.

    A second prompt of fewer tokens is filled with zeros, and one of more is cut.

    Raises:
        UnfitValue: other numbers of rows, or a second prompt that changes over the steps.
    """

    share: ZeroToOne = knob(0.5)

    def __call__(self, conditioning: Conditioning, other: Conditioning) -> Joined:
        def mixed(one: Conditioning, second: Conditioning) -> Conditioning:
            count = one.tokens.shape[1]
            tokens = pad(second.tokens[:, :count], (0, 0, 0, max(count - second.tokens.shape[1], 0)))
            made = replace(one, tokens=torch.lerp(tokens, one.tokens, self.share))
            own, theirs = (getattr(conditioning, "pooled", None) for conditioning in (one, second))
            if isinstance(own, Tensor) and isinstance(theirs, Tensor):
                changed: dict[str, Tensor] = {"pooled": torch.lerp(theirs, own, self.share)}
                return replace(made, **changed)
            return made

        return Joined(_with_other(conditioning, other, mixed))


def _with_other(
    conditioning: Conditioning, other: Conditioning, join: Callable[[Conditioning, Conditioning], Conditioning]
) -> Conditioning:
    if other.over_steps is not None:
        raise UnfitValue("The second prompt changes over the steps. Pass it as the first one, or without changes.")
    if conditioning.rows != other.rows and 1 not in (conditioning.rows, other.rows):
        raise UnfitValue(
            f"The prompts have {counted(conditioning.rows, 'row')} and {counted(other.rows, 'row')}. Give as many "
            "prompts of both kinds, or one."
        )
    rows = max(conditioning.rows, other.rows)
    first, second = (one.expand(rows, 1) if one.rows == 1 else one for one in (conditioning, other))
    return first.map(lambda one: join(one, second))
