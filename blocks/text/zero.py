"""Conditioning of zeros."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...components.types import Conditioning
from ...graph import Block


class Zeroed(NamedTuple):
    """Conditioning of zeros, of the same shape."""

    conditioning: Conditioning


class ZeroConditioning(Block):
    """Put zeros in the place of an encoded prompt, its tokens and what is pooled of it."""

    def __call__(self, conditioning: Conditioning) -> Zeroed:
        return Zeroed(conditioning.map(_zeros))


def _zeros(conditioning: Conditioning) -> Conditioning:
    """Masks and sizes stay."""
    found = {name: getattr(conditioning, name, None) for name in ("tokens", "pooled")}
    return replace(conditioning, **{n: torch.zeros_like(t) for n, t in found.items() if isinstance(t, Tensor)})
