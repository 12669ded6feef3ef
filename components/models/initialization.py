"""How fresh weights are drawn, and how a table of tokens is read. On the meta device nothing is drawn."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from ...graph.errors import UnfitValue

L = TypeVar("L", bound=nn.Module)


def init_normal(weight: Tensor, std: float) -> Tensor:
    """Fill a weight with normal numbers of mean 0 and standard deviation `std`, in place."""
    return weight if weight.is_meta else nn.init.normal_(weight, std=std)


def zero_init(layer: L) -> L:
    """Fill all parameters of a layer with zeros, in place: at the start of training the layer adds nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def token_vectors(table: nn.Embedding, ids: Tensor) -> Tensor:
    """The rows of a table for token ids. UnfitValue for ids past its end, which a GPU would answer with a lost process.

    Reading the largest id waits for the device, once for each text.
    """
    if not (ids.is_meta or torch.compiler.is_compiling()) and ids.numel():
        least, most = (int(extreme) for extreme in ids.aminmax())
        if least < 0 or most >= table.num_embeddings:
            raise UnfitValue(
                f"Needs token ids from 0 to {table.num_embeddings - 1} (vocab_size), got "
                f"{least if least < 0 else most}. Use the tokenizer of this text encoder."
            )
    return table(ids)


def embedding(rows: int, width: int, std: float | None) -> nn.Embedding:
    """A table of `rows` vectors, drawn with standard deviation `std`; None is a table of zeros.

    `nn.Embedding(rows, width)` draws its table itself, which on the meta device imports torch._dynamo.
    """
    table = torch.zeros(rows, width) if std is None else torch.empty(rows, width)
    made = nn.Embedding.from_pretrained(table, freeze=False)
    if std is not None:
        init_normal(made.weight, std)
    return made
