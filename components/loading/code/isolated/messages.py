"""Messages between two processes: plain values as JSON, tensors as bytes, port types as descriptions.

Both sides check what they read. Nothing is unpickled.
"""

import collections.abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import torch
from PIL import Image
from torch import Tensor

from .....graph.ports import Memory, is_memory
from .....graph.space import ANY_SPACE, LatentSpace
from .....graph.typing import Port, is_array, split_annotated, tags_of, type_text, union, union_members
from .records import parts_of, records, remade

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64,
    )
}  # fmt: skip
_PLAIN = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}
_NAMES = {cls: name for name, cls in _PLAIN.items()}
_MODES = ("1", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
"""Modes of pictures that `tobytes` saves completely."""
SENDABLE = "only tensors, plain values, pictures, conditionings, schedules and generator states"
_ALIGNED = 64  # bytes; each tensor begins at a multiple


class CannotSend(ValueError):
    """A value or type that cannot be sent to another process. The text names it."""


# ------------------------------------------------------------------------------------------------ values
class Tensors(NamedTuple):
    """Tensors in one piece of memory: the offset of each, and the bytes of all."""

    header: list[dict[str, Any]]  # JSON values
    size: int


def pack(value: Any, tensors: list[Tensor]) -> Any:  # JSON values
    """A value as JSON. Its tensors are appended to the list. CannotSend for other values."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if records().get(type(value).__name__) is type(value):
        parts = {part: pack(held, tensors) for part, held in parts_of(value).items()}
        return {"record": type(value).__name__, "parts": parts}
    if isinstance(value, Image.Image) and value.mode in _MODES:
        tensors.append(torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8))
        return {"picture": value.mode, "size": list(value.size), "bytes": len(tensors) - 1}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return {"items": [pack(item, tensors) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"table": {key: pack(item, tensors) for key, item in value.items()}}
    raise CannotSend(f"is a {type(value).__name__}; {SENDABLE} can be sent")


def unpack(data: Any, tensors: Sequence[Tensor]) -> Any:
    """The value of a message; lists become tuples. CannotSend for data that `pack` does not make."""
    match data:
        case {"tensor": int(i)} if 0 <= i < len(tensors):
            return tensors[i]
        case {"value": bool() | int() | float() | str() | None as value}:
            return value
        case {"record": str(name), "parts": dict(parts)} if name in records():
            try:
                return remade(name, {str(part): unpack(held, tensors) for part, held in parts.items()})
            except CannotSend:
                raise
            except ValueError as error:
                raise CannotSend(str(error)) from None
        case {"picture": str(mode), "size": [int(width), int(height)], "bytes": int(i)} if (
            mode in _MODES and 0 <= i < len(tensors) and tensors[i].dtype is torch.uint8
        ):
            try:
                return Image.frombytes(mode, (width, height), tensors[i].cpu().numpy().tobytes())
            except ValueError as error:
                raise CannotSend(f"is not a picture: {error}") from None
        case {"items": list(items)}:
            return tuple(unpack(item, tensors) for item in items)
        case {"table": dict(table)}:
            return {str(key): unpack(item, tensors) for key, item in table.items()}
        case _:
            raise CannotSend("is not a packed value")


def layout(tensors: Sequence[Tensor]) -> Tensors:
    """The offset of each tensor. CannotSend for dtypes and layouts that cannot be sent."""
    header: list[dict[str, Any]] = []
    size = 0
    for tensor in tensors:
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in _DTYPES or tensor.layout is not torch.strided:
            raise CannotSend(f"is a tensor of {name} ({tensor.layout}), which cannot be sent")
        header.append({"dtype": name, "shape": list(tensor.shape), "offset": size})
        size += -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
    return Tensors(header, size)


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in order."""
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)


def tensors_in(data: bytearray, header: Any) -> list[Tensor]:
    """Copies of the tensors in these bytes. CannotSend for a header that does not match."""
    tensors: list[Tensor] = []
    for entry in header if isinstance(header, list) else [None]:
        match entry:
            case {"dtype": str(name), "shape": list(shape), "offset": int(offset)} if name in _DTYPES and all(
                type(side) is int and 0 <= side < 2**40 for side in shape
            ):
                dtype, count = _DTYPES[name], math.prod(shape)
            case _:
                raise CannotSend("is not a header of tensors")
        stored = torch.uint8 if dtype is torch.bool else dtype  # a byte that is neither 0 nor 1 is no bool
        size = count * dtype.itemsize
        if offset < 0 or offset % _ALIGNED or offset + size > len(data):
            raise CannotSend(f"names {size} bytes at {offset}, and there are {len(data)}")
        flat = torch.empty(0, dtype=stored)  # frombuffer makes no empty tensor
        if count:
            flat = torch.frombuffer(data, dtype=stored, count=count, offset=offset).clone()
        tensors.append((flat != 0 if dtype is torch.bool else flat).reshape(shape))
    return tensors


# ------------------------------------------------------------------------------------------------ types
def describe(hint: Any) -> Any:  # JSON values
    """A port's type as JSON. CannotSend for types whose values cannot be sent."""
    if is_memory(hint):
        base, tags = split_annotated(hint)
        inner = [tag for tag in tags if tag not in tags_of(Memory[int])]
        return {"memory": describe(Annotated[base, *inner] if inner else base)}
    if len(members := union_members(hint)) > 1:
        return {"union": [describe(member) for member in members]}
    base, tags = split_annotated(hint)
    if port := next((tag for tag in reversed(tags) if isinstance(tag, Port)), None):
        if port.family:
            raise CannotSend(f"{type_text(hint)} (a function or a family's own class)")
        space = "any" if port.space == ANY_SPACE else port.space and {
            f.name: getattr(port.space, f.name) for f in fields(port.space)
        }  # fmt: skip
        return {"port": port.kind, "space": space, "of": describe(base)}
    if is_array(base) and base.array_type is Tensor:
        return {"array": base.__name__.partition("[")[0], "dims": base.dim_str}
    if base is Tensor:
        return {"type": "Tensor"}
    if base in _NAMES:
        return {"type": _NAMES[base]}
    if records().get(getattr(base, "__name__", "")) is base:
        return {"record": base.__name__}
    if base is Image.Image:
        return {"type": "picture"}
    if base is Any or base is object:
        return {"type": "Any"}
    origin, args = get_origin(base), get_args(base)
    if origin is Literal:
        return {"literal": [pack(value, []) for value in args]}
    if origin is tuple and args:
        return {"tuple": [describe(a) for a in args if a is not Ellipsis], "more": args[-1] is Ellipsis}
    if origin in (list, collections.abc.Sequence):
        return {"list": describe(args[0])}
    if origin in (dict, collections.abc.Mapping) and args[0] is str:
        return {"table": describe(args[1])}
    raise CannotSend(type_text(hint))


def type_of(data: Any) -> Any:
    """The type of a description. CannotSend for data that `describe` does not make."""
    import jaxtyping

    match data:
        case {"memory": inner}:
            return Memory[type_of(inner)]
        case {"union": list(members)} if members:
            return union(type_of(member) for member in members)
        case {"port": str(kind), "space": space, "of": inner}:
            made = None
            if space is not None:
                made = ANY_SPACE if space == "any" else LatentSpace(**space)
            return Annotated[type_of(inner), Port(kind, space=made)]
        case {"array": "Float" | "Int" | "Bool" | "Num" | "Shaped" | "UInt8" | "Complex" as name, "dims": str(dims)}:
            return getattr(jaxtyping, name)[Tensor, dims]
        case {"type": "Tensor"}:
            return Tensor
        case {"type": "Any"}:
            return Any
        case {"type": "picture"}:
            return Image.Image
        case {"record": str(name)} if name in records():
            return records()[name]
        case {"type": str(name)} if name in _PLAIN:
            return _PLAIN[name]
        case {"literal": list(values)} if values:
            return Literal[*[unpack(value, ()) for value in values]]
        case {"tuple": list(items), "more": bool(more)} if items:
            inner = [type_of(item) for item in items]
            return tuple[*inner, ...] if more else tuple[*inner]
        case {"list": inner}:
            return list[type_of(inner)]
        case {"table": inner}:
            return Mapping[str, type_of(inner)]
        case _:
            raise CannotSend("is not a description of a type")
