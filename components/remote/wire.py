"""Tensors as bytes between two programs, in the form of diffusers' remote autoencoders."""

import sys
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

DtypeName = Literal["float16", "bfloat16", "float32", "uint8"]
DTYPES: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "uint8": torch.uint8,
}
MEDIA_TYPE = "tensor/binary"


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype: "float16"."""
    return str(dtype).removeprefix("torch.")


def to_bytes(t: Tensor) -> bytes:
    """The numbers of a tensor in order, the lowest byte of each first."""
    plain = t.detach().contiguous().cpu().view(torch.uint8).numpy()
    return _swapped(plain.tobytes(), t.element_size())


def from_bytes(content: bytes, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor of these bytes; the inverse of `to_bytes`.

    >>> t = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    >>> torch.equal(from_bytes(to_bytes(t), [1, 2], t.dtype), t)
    True
    """
    return torch.frombuffer(bytearray(_swapped(content, dtype.itemsize)), dtype=dtype).reshape(list(shape))


def byte_count(shape: Sequence[int], dtype: torch.dtype) -> int:
    """The number of bytes of a tensor."""
    return torch.Size(shape).numel() * dtype.itemsize


def _swapped(content: bytes, size: int) -> bytes:
    """The bytes in the other order, on a machine with the highest byte first."""
    if sys.byteorder == "little" or size == 1:
        return content
    return b"".join(content[i : i + size][::-1] for i in range(0, len(content), size))
