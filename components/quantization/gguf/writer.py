"""Write GGUF files. Packed tensors are written unchanged."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ....graph.errors import SaveError
from ....graph.saving import saving_file
from .kinds import BY_DTYPE, Kind
from .packed import Packed
from .reader import ALIGNMENT, MAGIC, ORIGINAL_SHAPE

_STRING, _ARRAY, _INT32 = 8, 9, 5


def write_gguf(path: Path, tensors: Mapping[str, Tensor | Packed], *, architecture: str = "diffusers") -> None:
    """Write a GGUF file, version 3, whole or not at all.

    Tensors whose rows are not whole blocks, or with more than four dimensions, are written flat, with their shape in
    the metadata, as the tools for image models do.

    Args:
        path: the file.
        tensors: by name.
        architecture: whose names the tensors have.

    Raises:
        SaveError: a tensor without values (meta device), or of a dtype that the format lacks.
    """
    with saving_file(path) as draft:
        _write(draft, tensors, architecture)


def _write(path: Path, tensors: Mapping[str, Tensor | Packed], architecture: str) -> None:
    metadata: list[tuple[str, bytes]] = [("general.architecture", _typed_text(architecture))]
    infos: list[bytes] = []
    offset = 0
    for name, tensor in tensors.items():
        kind = _kind(name, tensor)
        shape = list(tensor.shape)
        if shape and (len(shape) > 4 or shape[-1] % kind.values):
            metadata.append((ORIGINAL_SHAPE + name, _typed_sizes(shape)))
            shape = [tensor.numel() // kind.values, kind.values]
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos.append(_text(name) + sizes + struct.pack("<IQ", kind.number, offset))
        offset += _padded(kind.size(tensor.numel()))
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", 3, len(infos), len(metadata)))
        for key, value in metadata:
            file.write(_text(key) + value)
        file.write(b"".join(infos))
        _pad(file)
        for tensor in tensors.values():
            file.write(_bytes(tensor))
            _pad(file)


def _kind(name: str, tensor: Tensor | Packed) -> Kind:
    if isinstance(tensor, Packed):
        return tensor.kind
    if tensor.is_meta or tensor.dtype not in BY_DTYPE:
        what = "has no values (meta device)" if tensor.is_meta else f"is {tensor.dtype}, which GGUF does not have"
        raise SaveError(f"{name} {what}, so it cannot be written.")
    return BY_DTYPE[tensor.dtype]


def _bytes(tensor: Tensor | Packed) -> bytes:
    data = tensor.blocks if isinstance(tensor, Packed) else tensor.detach()
    return data.contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes()


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _typed_text(text: str) -> bytes:
    return struct.pack("<I", _STRING) + _text(text)


def _typed_sizes(sizes: Sequence[int]) -> bytes:
    return struct.pack(f"<IIQ{len(sizes)}i", _ARRAY, _INT32, len(sizes), *sizes)


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))
