"""Initialization of fresh weights. On the meta device nothing is drawn."""

from typing import TypeVar

import torch
from torch import Tensor, nn

L = TypeVar("L", bound=nn.Module)


def init_normal(weight: Tensor, std: float) -> Tensor:
    """Fill a weight with normal numbers of mean 0 and standard deviation `std`, in place."""
    return weight if weight.is_meta else nn.init.normal_(weight, std=std)


def zero_init(layer: L) -> L:
    """Fill all parameters of a layer with zeros, in place: at the start of training the layer adds nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def embedding(rows: int, width: int, std: float | None) -> nn.Embedding:
    """A table of `rows` vectors, drawn with standard deviation `std`; None is a table of zeros.

    `nn.Embedding(rows, width)` draws its table itself, which on the meta device imports torch._dynamo.
    """
    table = torch.zeros(rows, width) if std is None else torch.empty(rows, width)
    made = nn.Embedding.from_pretrained(table, freeze=False)
    if std is not None:
        init_normal(made.weight, std)
    return made
