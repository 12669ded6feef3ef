"""Values as a tree of JSON and a list of tensors: to copy them, to know their size, and to keep them in a file."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias, cast

from .library_values import NoContentKey

Tree: TypeAlias = bool | int | float | str | list["Tree"] | dict[str, "Tree"] | None


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
        NoContentKey: a function, a module, or a value of another kind that has no parts.
    """
    stored = Stored()
    stored.tree = _taken_apart(value, stored.tensors)
    return stored


def restore(stored: Stored, packages: Collection[str]) -> Any:  # the stored value
    """Make the value again, with copies of the tensors.

    Args:
        stored: the result of `store`, or the content of a file.
        packages: the packages whose classes may be made.

    Raises:
        ValueError: another class, or a tree that `store` did not make.
    """
    return _Maker(stored.tensors, packages).made(stored.tree)


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
    torch = sys.modules.get("torch")
    if torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided:
        tensors.append(value.detach().clone().contiguous())
        return {"tensor": len(tensors) - 1, "device": str(value.device)}
    image = sys.modules.get("PIL.Image")
    if (
        torch is not None
        and image is not None
        and isinstance(value, image.Image)
        and value.mode in ("L", "RGB", "RGBA")
    ):
        tensors.append(torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8))
        return {"picture": len(tensors) - 1, "mode": value.mode, "size": list(value.size)}
    if is_dataclass(value) and not isinstance(value, type):
        made = [f for f in fields(value) if f.init]
        return {
            "class": _class_name(type(value)),
            "fields": {f.name: _taken_apart(getattr(value, f.name), tensors) for f in made},
        }
    raise NoContentKey(f"{type(value).__module__}.{type(value).__qualname__}")


def _class_name(kind: type) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    if _class_of(name) is not kind:
        raise NoContentKey(f"the class {kind.__qualname__}, which its module does not name,")
    return name


def _class_of(name: str) -> Any:
    """The class of a stored value, in a module that is imported already: a file can import nothing."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


@dataclass(frozen=True)
class _Maker:
    tensors: Sequence[Any]
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
            case {"tensor": int(number), "device": str(device)}:  # a file has it on the CPU
                return self.tensors[number].to(device, copy=True)
            case {"picture": int(number), "mode": str(mode), "size": [int(width), int(height)]}:
                from PIL import Image  # here, since few graphs have pictures

                return Image.frombytes(mode, (width, height), self.tensors[number].numpy().tobytes())
            case {"named": str(name), "items": list(items)}:
                return self._class(name, tuple)(*map(self.made, items))
            case {"class": str(name), "fields": dict(parts)}:
                values = {key: self.made(part) for key, part in cast("Mapping[str, Tree]", parts).items()}
                return self._class(name, object)(**values)
            case _:
                raise ValueError(f"no value looks like {str(tree)[:80]!r}")

    def _class(self, name: str, base: type) -> Any:
        kind = _class_of(name) if name.partition(":")[0].partition(".")[0] in self.packages else None
        fits = isinstance(kind, type) and issubclass(kind, base) and (is_dataclass(kind) or hasattr(kind, "_fields"))
        if not fits:
            raise ValueError(f"there is no class {name!r} of values")
        return kind
