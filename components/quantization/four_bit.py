"""Matrices in bitsandbytes' four bits as stored in files: split along rows and decoded without the package."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from ..storage.tensors import json_in

STATE = ".quant_state.bitsandbytes__"
"""The part of a name between that of a weight and its four-bit type."""
PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
"""Ends of the names of the other tensors of a weight."""


@runtime_checkable
class MayBeFourBit(Protocol):
    """A source of weights that may be in four bits."""

    def four_bit(self) -> Collection[str]:
        """The names of the weights in four bits."""
        ...


@dataclass(frozen=True)
class FourBitState:
    """The state of one matrix in a file."""

    kind: Literal["nf4", "fp4"]
    shape: tuple[int, ...]
    blocksize: int
    """The number of values that share a scale."""
    dtype: str
    """The dtype of the matrix before it was quantized."""
    nested: tuple[int, float] | None = None
    """For scales that are quantized too: how many share a scale, and the mean that was subtracted."""

    @classmethod
    def read(cls, kind: str, text: Tensor) -> "FourBitState":
        """Read the bytes of its JSON. ValueError if they are not a state."""
        try:
            data: Any = json_in(text)
            shape = tuple(int(size) for size in data["shape"])
            size, nested = int(data["blocksize"]), data.get("nested_blocksize")
            scales = None if nested is None else (int(nested), float(data["nested_offset"]))
            if kind not in ("nf4", "fp4") or data["quant_type"] != kind or len(shape) != 2:
                raise ValueError(f"it has the type {data['quant_type']!r} for {kind!r}, and the shape {list(shape)}")
            if size < 2 or size & (size - 1) or min(shape) < 1 or (scales and scales[0] < 1):
                raise ValueError(f"it has blocks of {size} and the shape {list(shape)}")
            return cls(cast("Any", kind), shape, size, str(data["dtype"]), scales)
        except (KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"it cannot be read: {type(error).__name__}: {error}") from error

    def __call__(self) -> Tensor:
        """The bytes of its JSON."""
        data: dict[str, Any] = {"quant_type": self.kind, "blocksize": self.blocksize, "dtype": self.dtype}
        data["shape"] = list(self.shape)
        if self.nested:
            data |= {"nested_blocksize": self.nested[0], "nested_dtype": "float32", "nested_offset": self.nested[1]}
        return torch.tensor(list(json.dumps(data).encode()), dtype=torch.uint8)

    @property
    def blocks(self) -> int:
        """The number of blocks of the matrix, and so of its scales."""
        return -(-prod(self.shape) // self.blocksize)

    def splits_at_blocks(self, sizes: Sequence[int]) -> bool:
        """Whether pieces of these numbers of rows begin at block boundaries."""
        return all(rows * self.shape[1] % self.blocksize == 0 for rows in list(accumulate(sizes))[:-1])


@dataclass(frozen=True, eq=False)
class FourBit:
    """A matrix in four bits: codes, two to a byte with the first in the high bits, and their scales and levels.

    Rows are split and joined without decoding, like `Packed` of a GGUF file, if the pieces begin at block boundaries.
    """

    state: FourBitState
    codes: Tensor  # uint8, bytes 1
    parts: Mapping[str, Tensor]
    """The other tensors by the ends of their names: `PARTS`."""

    def __post_init__(self) -> None:
        count, nested = prod(self.state.shape), self.state.nested
        wanted = {"": -(-count // 2), ".absmax": self.state.blocks, ".quant_map": 16}
        if nested:
            wanted |= {".nested_absmax": -(-self.state.blocks // nested[0]), ".nested_quant_map": 256}
        sizes = {"": self.codes.numel(), **{name: tensor.numel() for name, tensor in self.parts.items()}}
        if sizes != wanted or self.codes.dtype != torch.uint8:
            raise ValueError(f"it needs {wanted} numbers, codes in uint8, got {sizes}, codes in {self.codes.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.state.shape

    def scales(self) -> Tensor:
        """The scale of each block, float32."""
        absmax = self.parts[".absmax"]
        if not (nested := self.state.nested):
            return absmax.float()
        each = self.parts[".nested_absmax"].float().repeat_interleave(nested[0])[: absmax.numel()]
        return self.parts[".nested_quant_map"].float()[absmax.int()] * each + nested[1]

    def dequantize(self) -> Tensor:
        """The matrix, decoded: float32."""
        count = prod(self.shape)
        pairs = self.codes.flatten()
        levels = self.parts[".quant_map"].float()[torch.stack([pairs >> 4, pairs & 15], dim=1).flatten().int()]
        each = self.scales().repeat_interleave(self.state.blocksize)
        return (levels[:count] * each[:count]).view(self.shape)

    def split(self, sizes: Sequence[int]) -> "tuple[FourBit | Tensor, ...]":
        """Split into pieces of these numbers of rows. They are decoded if a block crosses a boundary."""
        if not self.state.splits_at_blocks(sizes):
            return self.dequantize().split(list(sizes))
        width, size = self.shape[1], self.state.blocksize
        scales, pairs = self.scales(), self.codes.flatten()
        made: list[FourBit] = []
        for rows, end in zip(sizes, accumulate(sizes), strict=True):
            start, stop = (end - rows) * width, end * width
            parts = {".absmax": scales[start // size : -(-stop // size)], ".quant_map": self.parts[".quant_map"]}
            state = replace(self.state, shape=(rows, width), nested=None)
            made.append(FourBit(state, pairs[start // 2 : -(-stop // 2)].reshape(-1, 1), parts))
        return tuple(made)

    def chunk(self, count: int) -> "tuple[FourBit | Tensor, ...]":
        """Split into `count` pieces of equal size; the last may be smaller."""
        rows, step = self.shape[0], -(-self.shape[0] // count)
        return self.split([min(step, rows - start) for start in range(0, rows, step)])

    def is_floating_point(self) -> bool:
        """True: with `to`, a loader treats it like a floating tensor."""
        return True

    def to(self, *, device: str | torch.device, dtype: torch.dtype | None) -> Tensor:
        """The decoded matrix on a device, in a dtype."""
        return self.dequantize().to(device=device, dtype=dtype)

    @property
    def T(self) -> Tensor:  # noqa: N802  torch's name
        """The transposed matrix, decoded, since blocks are along rows."""
        return self.dequantize().T

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Any function of torch comes through here.
        return cls._joined(args[0]) if func is torch.cat and not kwargs else NotImplemented

    @classmethod
    def _joined(cls, pieces: "Sequence[FourBit]") -> "FourBit | Tensor":
        first = pieces[0].state
        rows = [piece.shape[0] for piece in pieces]
        whole = replace(first, shape=(sum(rows), first.shape[1]), nested=None)
        if not whole.splits_at_blocks(rows):
            return torch.cat([piece.dequantize() for piece in pieces])
        parts = {
            ".absmax": torch.cat([piece.scales() for piece in pieces]),
            ".quant_map": pieces[0].parts[".quant_map"],
        }
        return cls(whole, torch.cat([piece.codes for piece in pieces]), parts)

    def stored(self) -> dict[str, Tensor]:
        """The tensors of a layer with this weight, by their names in files."""
        state = f"weight{STATE}{self.state.kind}"
        return {"weight": self.codes, **{f"weight{end}": part for end, part in self.parts.items()}, state: self.state()}
