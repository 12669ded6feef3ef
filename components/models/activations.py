"""Activations by their published names."""

from typing import Literal

from torch import nn

Activation = Literal["silu", "swish", "mish", "gelu", "relu"]

_MADE = {"silu": nn.SiLU, "swish": nn.SiLU, "mish": nn.Mish, "gelu": nn.GELU, "relu": nn.ReLU}


def activation(name: Activation) -> nn.Module:
    """The activation of that name ("swish" is SiLU)."""
    return _MADE[name]()
