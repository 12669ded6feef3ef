"""The table of tokens of a text encoder: how it is read, and how a view of it gets further rows."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .views import Replacement, combined_class, shallow_copy, view

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class ExtraRows:
    """Rows that a view of a text encoder has beside those of its table. Row i has the id -1 - i.

    Ids are negative, so that they are in no vocabulary, and the end token keeps the largest id, by which CLIP finds it.

    inputs: (rows, width), what the encoder reads. outputs: (rows, width), what it returns at the places of the rows
    that are `replaced`, (rows,) of bool; None where no row is.
    """

    inputs: Tensor
    outputs: Tensor | None = None
    replaced: Tensor | None = None


class ExtendedTable(nn.Module):
    """A table of tokens with further rows: ids below 0 read these, all others read the table."""

    def __init__(self, inner: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.__dict__["_rows"] = rows  # no buffer: it belongs to an adapter, and no state dict has it

    @property
    def rows(self) -> Tensor:
        """The further rows, (rows, width)."""
        return self.__dict__["_rows"]

    @property
    def num_embeddings(self) -> int:
        """The number of rows of the table itself."""
        return cast("int", self.inner.num_embeddings)

    def forward(self, ids: Tensor) -> Tensor:
        """The rows for ids, (…, width)."""
        own = self.inner(ids.clamp(min=0))
        return torch.where((ids < 0)[..., None], _rows(self.rows, ids, own), own)


class _ReplacedOutput(nn.Module):
    """A text encoder that returns vectors of its own at the places of some rows; the first of two classes."""

    def forward(self, input_ids: Tensor, *more: Any, **named: Any) -> Any:  # whatever the encoder's own forward takes
        """The encoder's output with these vectors, in the last state and in each layer's."""
        out: Any = super().forward(input_ids, *more, **named)
        extra: ExtraRows = self.__dict__["extra_rows"]
        assert extra.outputs is not None and extra.replaced is not None
        index = (-1 - input_ids).clamp(min=0)
        chosen = (input_ids < 0) & extra.replaced.to(input_ids.device)[index]

        def put(state: Tensor) -> Tensor:
            rows = _rows(cast("Tensor", extra.outputs), input_ids, state)
            return torch.where(chosen.to(state.device)[..., None], rows, state)

        changed: dict[str, Any] = {"last_hidden_state": put(out.last_hidden_state)}
        if states := getattr(out, "hidden_states", None):
            changed["hidden_states"] = (states[0], *map(put, states[1:]))
        return replace(out, **changed)


def with_rows(model: M, path: str, extra: ExtraRows) -> M:
    """A view of a text encoder with further rows in its table of tokens.

    Args:
        model: the encoder, or a view of it.
        path: of the table.
        extra: the rows.
    """
    changes: dict[str, Replacement] = {path: lambda table: ExtendedTable(table, extra.inputs)}
    if extra.outputs is not None:
        changes[""] = _returning(extra)
    return view(model, changes)


def _returning(extra: ExtraRows) -> Replacement:
    def change(model: nn.Module) -> nn.Module:
        twin = shallow_copy(model, combined_class(_ReplacedOutput, type(model)))
        twin.__dict__["extra_rows"] = extra
        return twin

    return change


def _rows(table: Tensor, ids: Tensor, like: Tensor) -> Tensor:
    """The further rows for ids below 0, on the device and in the dtype of `like`; any row for other ids."""
    index = (-1 - ids).clamp(min=0).to(like.device)
    return table.to(like.device, like.dtype)[index]


def token_vectors(table: nn.Module, ids: Tensor) -> Tensor:
    """The rows of a table for token ids. UnfitValue for ids past its end, which a GPU would answer with a lost process.

    table: an `nn.Embedding`, or an `ExtendedTable` over one. Reading the extreme ids waits for the device, once for
    each text.
    """
    if not (ids.is_meta or torch.compiler.is_compiling()) and ids.numel():
        size = cast("int", table.num_embeddings)
        lowest = -len(table.rows) if isinstance(table, ExtendedTable) else 0
        least, most = (int(extreme) for extreme in ids.aminmax())
        if least < lowest or most >= size:
            raise UnfitValue(
                f"Needs token ids from 0 to {size - 1} (vocab_size), got {least if least < lowest else most}. "
                "Use the tokenizer of this text encoder."
            )
    return table(ids)
