"""Activations by their published names."""

from typing import Literal

from torch import nn

Activation = Literal["silu", "swish", "mish", "gelu", "relu"]

_CLASSES = {"silu": nn.SiLU, "swish": nn.SiLU, "mish": nn.Mish, "gelu": nn.GELU, "relu": nn.ReLU}


def activation(name: Activation) -> nn.Module:
    """Make the activation of that name; "swish" is SiLU."""
    return _CLASSES[name]()
