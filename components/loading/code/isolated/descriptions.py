"""Blocks in messages between two processes: their fields and ports, with types as descriptions.

The process that has the code may describe anything. So this side takes plain names of limited number, types of a
closed set, and plain defaults. It evaluates no text.
"""

import collections.abc
import keyword
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from PIL import Image
from torch import Tensor

from .....graph.block import Block, ports_of
from .....graph.ports import Input, Memory, is_memory
from .....graph.space import ANY_SPACE, LatentSpace
from .....graph.typing import Port, is_array, split_annotated, tags_of, type_text, union, union_members
from .....graph.validate import Unfit, fitted
from .....registry import printable
from .messages import SENDABLE, CannotSend, pack, unpack
from .records import records

_PLAIN = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}
_NAMES = {cls: name for name, cls in _PLAIN.items()}
_ARRAYS = ("Float", "Int", "Bool", "Num", "Shaped", "UInt8", "Complex")
_SIDE = re.compile(r"\d{1,9}|\.\.\.|[*#?]{0,2}([A-Za-z_]\w{0,40}=)?[A-Za-z0-9_]\w{0,40}", re.ASCII)
"""One dimension of a shape: a name or a number. jaxtyping evaluates other texts as Python when it checks a shape."""
_MAX_PORTS, _MAX_NAME, _MAX_DOC, _MAX_DEPTH = 100, 100, 10_000, 16


@dataclass(frozen=True)
class Field:
    """A field or input of a described block."""

    type: Any  # a type hint
    default: tuple[Any, ...] = ()
    """The default in a tuple; empty if there is none."""
    knob: bool = False


@dataclass(frozen=True)
class Described:
    """A block of the other process."""

    name: str
    doc: str
    fields: Mapping[str, Field]
    inputs: Mapping[str, Field]
    outputs: Mapping[str, Any]  # type hints
    returns: str | None
    """The name of the class that it returns; None if it returns nothing."""


# ------------------------------------------------------------------------------------------------ written there
def describe_block(name: str, cls: type[Block]) -> dict[str, Any]:
    """A block as JSON. CannotSend if it has components, the run, or ports whose values cannot be sent; all at once."""
    ports = ports_of(cls)
    problems: list[str] = []
    if ports.components:
        problems.append(f"it holds {', '.join(ports.components)}: a model is not copied to another process")
    if ports.signature.running is not None:
        problems.append(f"{ports.signature.running!r} is the run, which stays in its process")

    def type_json(port: str, hint: Any) -> Any:
        try:
            return describe(hint)
        except CannotSend as error:
            problems.append(f"{port!r} is {error}")
            return None

    def input_json(port: str, made: Input) -> dict[str, Any]:
        data = {"type": type_json(port, made.type)}
        if not made.required:
            data["default"] = pack(made.default, [])
        return data

    signature = ports.signature
    hints = get_type_hints(cls, include_extras=True)
    held: dict[str, Any] = {}
    for f in fields(cls):  # type: ignore[arg-type]  # every block is a dataclass
        if "component" not in f.metadata:
            held[f.name] = {"type": type_json(f.name, hints[f.name]), "knob": "knob" in f.metadata}
            if f.default is not MISSING:
                held[f.name]["default"] = pack(f.default, [])
    inputs = {n: input_json(n, made) for n, made in signature.inputs.items() if n not in ports.knobs}
    inputs |= {n: input_json(n, made) for n, made in signature.memory.items()}
    gives = get_type_hints(ports.returns, include_extras=True) if ports.returns else {}
    outputs = {n: type_json(n, hint) for n, hint in gives.items()}
    if problems:
        text = "; ".join(problems)
        raise CannotSend(f"{name}: {SENDABLE} can be sent to another process, and {text}")
    return {
        "class": cls.__name__, "doc": cls.__doc__ or "", "fields": held, "inputs": inputs, "outputs": outputs,
        "returns": ports.returns.__name__ if ports.returns else None,
    }  # fmt: skip


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


# ------------------------------------------------------------------------------------------------ read here
def described(data: Any) -> Described:
    """The block of a description. CannotSend for data that `describe_block` does not make."""
    match data:
        case {"class": name, "doc": str(doc), "fields": dict(held), "inputs": dict(inputs), "outputs": dict(outputs),
              "returns": returns} if len(held) + len(inputs) + len(outputs) <= _MAX_PORTS:  # fmt: skip
            made = Described(
                _name(name), _doc(doc), {_name(n): _field(entry) for n, entry in held.items()},
                {_name(n): _field(entry) for n, entry in inputs.items()},
                {_name(n): type_of(kind) for n, kind in outputs.items()}, None if returns is None else _name(returns),
            )  # fmt: skip
        case _:
            raise CannotSend("is not a description of a block")
    if clash := [n for n in made.fields if hasattr(Block, n)]:
        raise CannotSend(f"has the field {clash[0]}, which every block has")
    if made.outputs and made.returns is None:
        raise CannotSend("does not say what it returns")
    return made


def _field(entry: Any) -> Field:
    match entry:
        case {"type": kind}:
            default = (unpack(entry["default"], ()),) if "default" in entry else ()
            return Field(type_of(kind), default, entry.get("knob") is True)
        case _:
            raise CannotSend("is not a description of a port")


def _name(name: Any) -> str:
    if (
        isinstance(name, str) and len(name) <= _MAX_NAME and name.isidentifier() and not keyword.iskeyword(name)
        and not name.startswith("_") and name != "self"
    ):  # fmt: skip
        return name
    raise CannotSend("has a name that is no plain name of Python")


def _doc(doc: str) -> str:
    return "\n".join(map(printable, doc[:_MAX_DOC].split("\n")))


def _dims(dims: str) -> str:
    if len(sides := dims.split()) > 16 or not all(_SIDE.fullmatch(side) for side in sides):
        raise CannotSend("has a shape with expressions, which are not evaluated")
    return " ".join(sides)


def _space(data: Any) -> LatentSpace | None:
    if data is None or data == "any":
        return None if data is None else ANY_SPACE
    hints = get_type_hints(LatentSpace)
    try:
        return LatentSpace(**{n: fitted(unpack({"value": value}, ()), hints[n]) for n, value in data.items()})
    except (AttributeError, KeyError, Unfit):
        raise CannotSend("is not a latent space") from None


def type_of(data: Any, depth: int = 0) -> Any:
    """The type of a description. CannotSend for data that `describe` does not make."""
    import jaxtyping

    if depth > _MAX_DEPTH:
        raise CannotSend(f"has a type of more than {_MAX_DEPTH} levels")
    deeper = depth + 1
    match data:
        case {"memory": inner}:
            return Memory[type_of(inner, deeper)]
        case {"union": list(members)} if 0 < len(members) <= _MAX_PORTS:
            return union(type_of(member, deeper) for member in members)
        case {"port": str(kind), "space": space, "of": inner}:
            return Annotated[type_of(inner, deeper), Port(_name(kind), space=_space(space))]
        case {"array": str(name), "dims": str(dims)} if name in _ARRAYS:
            return getattr(jaxtyping, name)[Tensor, _dims(dims)]
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
        case {"literal": list(values)} if 0 < len(values) <= _MAX_PORTS:
            return Literal[*[_literal(value) for value in values]]
        case {"tuple": list(items), "more": bool(more)} if 0 < len(items) <= _MAX_PORTS:
            inner = [type_of(item, deeper) for item in items]
            return tuple[*inner, ...] if more else tuple[*inner]
        case {"list": inner}:
            return list[type_of(inner, deeper)]
        case {"table": inner}:
            return Mapping[str, type_of(inner, deeper)]
        case _:
            raise CannotSend("is not a description of a type")


def _literal(data: Any) -> Any:
    value = unpack(data, ())
    if value is None or isinstance(value, bool | int | str):
        return value
    raise CannotSend("has a literal that is no plain value")
