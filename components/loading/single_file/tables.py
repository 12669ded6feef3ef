"""Tables of names between the tensors of a published file and those of a model, in both directions."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...quantization.four_bit import MayBeFourBit
from ...storage.tensors import Shape, Tensors

How = Literal["", "transposed", "halves swapped", "1x1"]
"""A further difference: a transposed matrix; scale and shift in the other order; a 1x1 convolution for a matrix."""


@dataclass(frozen=True)
class Row:
    """Names that begin with `theirs` in a file begin with `ours` in a model. Several of ours are one matrix's rows."""

    ours: tuple[str, ...]
    theirs: str
    how: How = ""


@dataclass(frozen=True)
class Tie:
    """One tensor of a file, and the tensors of a model that are made of it."""

    ours: tuple[str, ...]
    theirs: str
    how: How = ""


def table(text: str, count: int = 0) -> tuple[Row, ...]:
    """Parse rows: our name (or several with +), the file's name, the difference. `{i}` is each number below `count`.

    >>> table("attn.to_q + attn.to_k  attn.qk\\nproj {i}.out  {i}.proj  transposed".replace("proj {i}", "{i}"), 1)[1]
    Row(ours=('0.out',), theirs='0.proj', how='transposed')
    """
    rows: list[Row] = []
    for line in text.strip().splitlines():
        names, *rest = [part.strip() for part in line.replace(" + ", "+").strip().split("  ") if part.strip()]
        theirs, how = (rest[0], rest[1] if len(rest) > 1 else "") if rest else (names, "")
        kind = next(known for known in get_args(How) if known == how)
        for number in range(count) if "{i}" in line else (0,):
            ours = tuple(name.strip().replace("{i}", str(number)) for name in names.split("+"))
            rows.append(Row(ours, theirs.replace("{i}", str(number)), kind))
    return tuple(rows)


def inside(ours: str, theirs: str, rows: Iterable[Row]) -> list[Row]:
    """The rows of a part, with these prefixes."""
    return [Row(tuple(f"{ours}.{name}" for name in row.ours), f"{theirs}.{row.theirs}", row.how) for row in rows]


def ties(names: Iterable[str], rows: Iterable[Row], prefix: str = "") -> list[Tie]:
    """The name in a file of each tensor of a model: by the row with the longest match, else the same name.

    `prefix` is the beginning of all names of the file.
    """
    by_name = {name: (row, place) for row in rows for place, name in enumerate(row.ours)}
    found: dict[str, dict[int, str]] = {}
    how: dict[str, How] = {}
    for name in names:
        head = _longest_head(name, by_name)
        row, place = by_name[head] if head is not None else (Row((name,), name), 0)
        theirs = prefix + row.theirs + name[len(head if head is not None else name) :]
        found.setdefault(theirs, {})[place] = name
        how[theirs] = row.how
    return [
        Tie(tuple(ours for _, ours in sorted(parts.items())), theirs, how[theirs]) for theirs, parts in found.items()
    ]


def our_names(names: Iterable[str], rows: Iterable[Row]) -> dict[str, str]:
    """The name in a model of each tensor of a file, by the row with the longest match. Others are left out.

    >>> our_names(["in.0.weight", "other"], table("conv  in.0"))
    {'in.0.weight': 'conv.weight'}
    """
    by_name = {row.theirs: row.ours[0] for row in rows}
    heads = {name: head for name in names if (head := _longest_head(name, by_name)) is not None}
    return {name: by_name[head] + name[len(head) :] for name, head in heads.items()}


def _longest_head(name: str, known: Collection[str]) -> str | None:
    """The longest beginning of a name, up to one of its dots or its end, that is known."""
    parts = name.split(".")
    heads = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((head for head in heads if head in known), None)


class Renamed:
    """The tensors of a file by the names of a model.

    Args:
        tensors: the file.
        made: the ties of the model's tensors.
        wanted: the shapes of the model.
        keep: the file's names that belong to the model. Those without a tie keep their names, so that the loader
            reports them as unexpected.
    """

    def __init__(
        self, tensors: Tensors, made: Sequence[Tie], wanted: Mapping[str, Shape], keep: Iterable[str] = ()
    ) -> None:
        self.tensors = tensors
        """The file. May be replaced by a source with the same names and shapes."""
        stored = tensors.shapes()
        self._of: dict[str, tuple[Tie, list[int], int]] = {}
        self._shapes: dict[str, Shape] = {}
        for tie in made:
            if tie.theirs not in stored:
                continue
            whole = stored[tie.theirs]
            sizes = [next(iter(wanted[name]), 1) for name in tie.ours]
            fits = sum(sizes) == next(iter(whole), 1)
            for place, name in enumerate(tie.ours):
                self._of[name] = (tie, sizes, place)
                piece = (sizes[place], *whole[1:]) if fits and len(sizes) > 1 else whole
                self._shapes[name] = piece[::-1] if tie.how == "transposed" else piece
        tied = {tie.theirs for tie in made}
        self._shapes |= {name: stored[name] for name in keep if name not in tied}

    def shapes(self) -> Mapping[str, Shape]:
        """The shapes by the model's names."""
        return self._shapes

    def read(self, name: str) -> Tensor:
        """One tensor of the model: split, transposed or reordered as its row says."""
        tie, sizes, place = self._of[name]
        whole: Any = self.tensors.read(tie.theirs)  # a Tensor, or a Packed or FourBit with the same methods
        if len(sizes) > 1:
            return whole.split(sizes)[place]
        if tie.how == "transposed":
            return whole.T.contiguous()
        return _swapped(whole) if tie.how == "halves swapped" else whole

    def four_bit(self) -> Collection[str]:
        """The names of weights in four bits. `read` decodes pieces that begin inside a block."""
        packed = self.tensors.four_bit() if isinstance(self.tensors, MayBeFourBit) else ()
        return [name for name, (tie, _, _) in self._of.items() if tie.theirs in packed]

    def where(self, name: str) -> str:
        """The file of a tensor."""
        return self.tensors.where(self._of[name][0].theirs if name in self._of else name)


def file_tensors(state: Mapping[str, Tensor], made: Sequence[Tie]) -> dict[str, Tensor]:
    """A model's tensors in the names and form of a file: the inverse of `Renamed`."""
    out: dict[str, Tensor] = {}
    for tie in made:
        whole = (
            torch.cat([state[name] for name in tie.ours]) if tie.ours[1:] else next(state[name] for name in tie.ours)
        )
        match tie.how:
            case "transposed":
                whole = whole.T
            case "halves swapped":
                whole = _swapped(whole)
            case "1x1":
                whole = whole[..., None, None] if whole.ndim == 2 else whole
            case _:
                pass
        out[tie.theirs] = whole.contiguous()
    return out


def _swapped(whole: Tensor) -> Tensor:
    first, second = whole.chunk(2)
    return torch.cat([second, first])
