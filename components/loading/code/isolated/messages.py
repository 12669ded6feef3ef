"""Values in messages between two processes: plain ones as JSON, tensors as bytes.

Both sides check what they read: nothing is unpickled, every count has a limit, and no memory is taken before the sizes
are checked.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .records import parts_of, records, remade

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64,
    )
}  # fmt: skip
_MODES = {
    "1": 0, "L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "RGBX": 4, "CMYK": 4, "YCbCr": 3, "LAB": 3, "HSV": 3, "I;16": 2,
    "I": 4, "F": 4,
}  # fmt: skip
"""Modes of pictures that `tobytes` saves completely, with the bytes of a pixel; "1" has eight pixels in a byte."""
MEMORY = "SFUMATO_ISOLATED_GB"
"""The environment variable for the memory that a process may take: 8, or half of the machine's."""
ANSWER = "SFUMATO_ISOLATED_ANSWER_MB"
"""The environment variable for the size of the tensors of one answer: 512."""
SENDABLE = "only tensors, plain values, pictures, conditionings, schedules and generator states"
_MAX_TENSORS, _MAX_DIMENSIONS, _MAX_DEPTH = 1000, 16, 32


class CannotSend(ValueError):
    """A value or type that cannot be sent to another process. The text names it."""


# ------------------------------------------------------------------------------------------------ values
def pack(value: Any, tensors: list[Tensor], depth: int = 0) -> Any:  # JSON values
    """A value as JSON. Its tensors are appended to the list. CannotSend for other values."""
    if depth > _MAX_DEPTH:
        raise CannotSend(f"has more than {_MAX_DEPTH} levels")
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, float) and value != value:
        raise CannotSend("is nan, which is no number")
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if records().get(type(value).__name__) is type(value):
        parts = {part: pack(held, tensors, depth + 1) for part, held in parts_of(value).items()}
        return {"record": type(value).__name__, "parts": parts}
    if isinstance(value, Image.Image) and value.mode in _MODES:
        tensors.append(torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8))
        return {"picture": value.mode, "size": list(value.size), "bytes": len(tensors) - 1}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return {"items": [pack(item, tensors, depth + 1) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"table": {key: pack(item, tensors, depth + 1) for key, item in value.items()}}
    raise CannotSend(f"is a {type(value).__name__}; {SENDABLE} can be sent")


def unpack(data: Any, tensors: Sequence[Tensor], depth: int = 0) -> Any:
    """The value of a message; lists become tuples. CannotSend for data that `pack` does not make."""
    if depth > _MAX_DEPTH:
        raise CannotSend(f"has more than {_MAX_DEPTH} levels")
    match data:
        case {"tensor": int(i)} if 0 <= i < len(tensors):
            return tensors[i]
        case {"value": bool() | int() | float() | str() | None as value}:
            return value
        case {"record": str(name), "parts": dict(parts)} if name in records():
            try:
                return remade(name, {str(part): unpack(held, tensors, depth + 1) for part, held in parts.items()})
            except CannotSend:
                raise
            except ValueError as error:
                raise CannotSend(str(error)) from None
        case {"picture": str(mode), "size": [int(width), int(height)], "bytes": int(i)} if (
            mode in _MODES and 0 <= i < len(tensors) and tensors[i].dtype is torch.uint8
        ):
            line = _MODES[mode] * width if _MODES[mode] else -(-width // 8)
            if width < 0 or height < 0 or line * height != tensors[i].numel():
                raise CannotSend(f"is a picture of {width} by {height} with {tensors[i].numel()} bytes")
            return Image.frombytes(mode, (width, height), tensors[i].cpu().numpy().tobytes())
        case {"items": list(items)}:
            return tuple(unpack(item, tensors, depth + 1) for item in items)
        case {"table": dict(table)}:
            return {str(key): unpack(item, tensors, depth + 1) for key, item in table.items()}
        case _:
            raise CannotSend("is not a packed value")


def header_of(tensors: Sequence[Tensor], limit: int) -> list[dict[str, Any]]:  # JSON values
    """The dtype and shape of each tensor. CannotSend for dtypes, layouts and sizes that cannot be sent."""
    header: list[dict[str, Any]] = []
    for tensor in tensors:
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in _DTYPES or tensor.layout is not torch.strided:
            raise CannotSend(f"is a tensor of {name} ({tensor.layout}), which cannot be sent")
        header.append({"dtype": name, "shape": list(tensor.shape)})
    _check_sizes([(_DTYPES[entry["dtype"]], entry["shape"]) for entry in header], limit)
    return header


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, in order. A tensor that repeats its numbers is written out."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy().data).cast("B") if flat.numel() else memoryview(bytearray())


def empty_tensors(header: Any, limit: int) -> list[Tensor]:
    """Tensors of these dtypes and shapes, to be filled. CannotSend for a header that `header_of` does not make."""
    found: list[tuple[torch.dtype, list[int]]] = []
    for entry in header if isinstance(header, list) else [None]:
        match entry:
            case {"dtype": str(name), "shape": list(shape)} if name in _DTYPES and len(entry) == 2:
                found.append((_DTYPES[name], shape))
            case _:
                raise CannotSend("is not a header of tensors")
    _check_sizes(found, limit)
    # A byte that is neither 0 nor 1 is no bool: `filled` reads it as a number.
    try:
        return [torch.empty(shape, dtype=torch.uint8 if dtype is torch.bool else dtype) for dtype, shape in found]
    except RuntimeError:  # of torch, where Python has MemoryError
        raise CannotSend("has tensors that need more memory than there is") from None


def filled(tensors: Sequence[Tensor], header: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """The tensors of `empty_tensors` when they have their bytes."""
    return [tensor != 0 if entry["dtype"] == "bool" else tensor for tensor, entry in zip(tensors, header, strict=True)]


def _check_sizes(found: Sequence[tuple[torch.dtype, list[Any]]], limit: int) -> None:
    if len(found) > _MAX_TENSORS:
        raise CannotSend(f"has {len(found)} tensors, and {_MAX_TENSORS} are possible")
    total = 0
    for dtype, shape in found:
        if len(shape) > _MAX_DIMENSIONS or not all(type(side) is int and 0 <= side < 2**62 for side in shape):
            raise CannotSend(f"has a tensor of the shape {reprlib.repr(shape)}, which is not possible")
        # A side of zero counts as one: the strides of an empty tensor are products of the others.
        total += dtype.itemsize * math.prod(max(side, 1) for side in shape)
    if total > limit:
        raise CannotSend(
            f"has tensors of {total / 1e6:.1f} MB, and {limit / 1e6:.1f} MB are possible. Set {ANSWER} to allow more"
        )
