"""Values as a tree of JSON and a list of tensors: to copy them, to know their size, and to keep them in a file."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast, get_type_hints

from ..block import Block
from ..limits import check_limit
from ..validate import Unfit, fitted

Tree: TypeAlias = bool | int | float | str | list["Tree"] | dict[str, "Tree"] | None


class NotStored(Exception):
    """The value has no parts that a file could have; the text names its kind."""


@dataclass
class Stored:
    """A value in parts.

    tree: JSON, with numbers of tensors in it. tensors: copies that no other object has.
    """

    tree: Tree = None
    tensors: list[Any] = field(default_factory=list[Any])

    @property
    def bytes(self) -> int:
        """The size of the tensors, and an estimate for the rest."""
        return 256 + sum(t.numel() * t.element_size() for t in self.tensors)


def store(value: Any) -> Stored:  # any value that flows in a graph
    """Take a value apart; its tensors and pictures are copied.

    Raises:
        NotStored: a function, a module, or a value of another kind that has no parts.
    """
    stored = Stored()
    stored.tree = _taken_apart(value, stored.tensors)
    return stored


def restore(stored: Stored, packages: Collection[str]) -> Any:  # the stored value
    """Make the value again, with copies of the tensors.

    Only named tuples and frozen dataclasses that are no blocks are made, of modules that are imported already.

    Args:
        stored: the result of `store`, or the content of a file.
        packages: the packages whose classes may be made.

    Raises:
        ValueError: another class, fields of other types, or a tree that `store` did not make.
    """
    try:
        return _Maker(list(stored.tensors), packages).made(stored.tree)
    except (TypeError, OverflowError, IndexError, RuntimeError) as error:
        raise ValueError(f"it is no stored value: {error}") from error


def tensor_bytes(tensor: Any) -> bytes:
    """The bytes of a tensor in the order of its elements."""
    torch = sys.modules["torch"]
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def is_plain(torch: Any, tensor: Any) -> bool:
    """Whether a tensor is an array of numbers: not quantized, not sparse, and with contents."""
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


def _taken_apart(value: Any, tensors: list[Any]) -> Tree:
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        return {"int": str(value)}
    if type(value) is float:
        return {"float": value.hex()}
    if isinstance(value, list | tuple):
        items: list[Tree] = [_taken_apart(item, tensors) for item in cast("Sequence[Any]", value)]
        if type(value) in (list, tuple):
            return {type(value).__name__: items}
        return {"named": _class_name(type(value)), "items": items}
    if type(value) is dict:
        pairs = cast("dict[Any, Any]", value).items()
        return {"dict": [[_taken_apart(key, tensors), _taken_apart(item, tensors)] for key, item in pairs]}
    if isinstance(value, Path):
        return {"path": str(value)}
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter) and is_plain(torch, value):
        tensors.append(value.detach().clone().contiguous())
        return {"tensor": len(tensors) - 1, "device": str(value.device)}
    if torch is not None and numpy is not None and type(value) is numpy.ndarray and _has_type_of_torch(value):
        tensors.append(torch.from_numpy(value.copy(order="C")))
        return {"array": len(tensors) - 1}
    image = sys.modules.get("PIL.Image")
    if torch is not None and image is not None and isinstance(value, image.Image) and value.mode in _MODES:
        if "transparency" in value.info:
            raise NotStored("a picture with a transparent colour")
        tensors.append(torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8))
        turned = {} if (orientation := _orientation(value)) == 1 else {"orientation": orientation}
        return {"picture": len(tensors) - 1, "mode": value.mode, "size": list(value.size), **turned}
    if is_dataclass(value) and not isinstance(value, type):
        made = [f for f in fields(value) if f.init]
        return {
            "class": _class_name(type(value)),
            "fields": {f.name: _taken_apart(getattr(value, f.name), tensors) for f in made},
        }
    raise NotStored(f"{type(value).__module__}.{type(value).__qualname__}")


def _class_name(kind: type) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if _class_of(name) is not kind:
        raise NotStored(f"the class {kind.__qualname__}, which its module does not name,")
    return name


def _class_of(name: str) -> Any:
    """The class of a stored value, in a module that is imported already: a file can import nothing."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    try:
        return get_type_hints(kind, include_extras=True)
    except NameError:  # types that are imported for a type checker only
        return {}


@dataclass(frozen=True)
class _Maker:
    tensors: list[Any]
    """Those that are not used yet: each is used once, so that a small file cannot make a large value."""
    packages: Collection[str]

    def made(self, tree: Tree) -> Any:
        """The value of a tree."""
        match tree:
            case None | bool() | str():
                return tree
            case {"int": str(digits)}:
                return int(digits)
            case {"float": str(digits)}:
                return float.fromhex(digits)
            case {"list": list(items)}:
                return list(map(self.made, items))
            case {"tuple": list(items)}:
                return tuple(map(self.made, items))
            case {"dict": list(pairs)}:
                return {self.made(key): self.made(item) for key, item in cast("list[list[Tree]]", pairs)}
            case {"path": str(path)}:
                return Path(path)
            case {"tensor": int(number), "device": str(device)}:
                return self._tensor(number).to(_device(device), copy=True)
            case {"array": int(number)}:
                return self._tensor(number).numpy().copy()
            case {"picture": int(number), "mode": str(mode), "size": [int(width), int(height)]}:
                return self._picture(self._tensor(number), mode, width, height, tree.get("orientation", 1))
            case {"named": str(name), "items": list(items)}:
                return self._of_class(name, tuple, list(map(self.made, items)))
            case {"class": str(name), "fields": dict(parts)}:
                values = {key: self.made(part) for key, part in cast("Mapping[str, Tree]", parts).items()}
                return self._of_class(name, object, values)
            case _:
                raise ValueError(f"no value looks like {str(tree)[:80]!r}")

    def _tensor(self, number: int) -> Any:
        tensor, self.tensors[number] = self.tensors[number], None
        if tensor is None:
            raise ValueError(f"tensor {number} is there twice")
        return tensor

    def _picture(self, pixels: Any, mode: str, width: int, height: int, orientation: Any) -> Any:
        from PIL import Image  # here, since few graphs have pictures

        check_limit("picture_pixels", width * height)
        if mode not in _MODES or pixels.numel() != width * height * _MODES[mode]:
            raise ValueError(f"a picture of {width} x {height} in mode {mode} has other pixels")
        picture = Image.frombytes(mode, (width, height), pixels.numpy().tobytes())
        if orientation != 1:
            if orientation not in range(2, 9):
                raise ValueError(f"a picture has the orientation {str(orientation)[:20]}")
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            picture.info["exif"] = exif.tobytes()
        return picture

    def _of_class(self, name: str, base: type, parts: Any) -> Any:  # a list of items, or fields by name
        kind = _class_of(name) if name.partition(":")[0].partition(".")[0] in self.packages else None
        if not (isinstance(kind, type) and issubclass(kind, base) and _is_value(kind)):
            raise ValueError(f"there is no class {name!r} of values")
        names = cast("Any", kind)._fields if base is tuple else ()
        hints = _hints(kind)
        for field_name, part in zip(names, parts, strict=True) if base is tuple else parts.items():
            try:
                fitted(part, hints.get(field_name, Any))
            except Unfit as error:
                raise ValueError(f"{kind.__name__}.{field_name} {error}") from None
        return kind(*parts) if base is tuple else kind(**parts)


_MODES = {"L": 1, "RGB": 3, "RGBA": 4}
"""The modes of pictures that are stored, and their bytes for each pixel."""
_ORIENTATION = 274
"""The Exif tag of a picture whose pixels are stored turned."""


def _orientation(picture: Any) -> int:
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken Exif data; Pillow raises errors of many classes, and readers go by the pixels
        return 1
    return found if found in range(1, 9) else 1


def _has_type_of_torch(array: Any) -> bool:
    """Whether a tensor can have the numbers of an array."""
    return array.dtype.kind in "biuf" and array.dtype.isnative and array.dtype.itemsize <= 8


def _is_value(kind: type) -> bool:
    if issubclass(kind, Block):
        return False
    params = getattr(kind, "__dataclass_params__", None)
    return params.frozen if params is not None else hasattr(kind, "_fields")


def _device(name: str) -> str:
    """The device of a stored tensor; the CPU where this machine lacks it."""
    torch = sys.modules["torch"]
    kind = name.partition(":")[0]
    if kind == "cpu" or kind == "meta":
        return "cpu"
    device = getattr(torch, kind, None)
    return name if device is not None and hasattr(device, "is_available") and device.is_available() else "cpu"
