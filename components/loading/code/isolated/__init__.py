"""Trusted code in a separate process: blocks whose calls are sent to the process that has imported the code.

A crash, a hang or a changed global of the code does not affect this process, and the code gets no environment
variables and no objects of this process. It is not a sandbox: the code may read files and use the network as the user.
"""

import inspect
import threading
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from .....graph.block import Block
from .....graph.errors import BrokenBlock, LoadError, Malformed
from .....graph.fields import knob
from .....graph.ports import is_memory
from .....graph.validate import Unfit, fitted
from ..importing import announce
from ..reading import Code
from .messages import CannotSend, type_of, unpack
from .process import Child

_LOCK = threading.Lock()
_made: dict[str, dict[str, type[Block]]] = {}


def isolated_blocks(code: Code) -> dict[str, type[Block]]:
    """Import code in a separate process.

    Returns:
        For each name of `auto_map` a class with the same ports, which sends its calls to the process.

    Raises:
        LoadError: code that cannot be imported, or a block whose components or ports cannot be sent.
    """
    package = announce(code)
    with _LOCK:
        if (classes := _made.get(package)) is None or classes.keys() != code.auto_map.keys():
            child = Child(code)
            try:
                descriptions = child.start()
                classes = {name: _class(child, code, package, name, descriptions[name]) for name in code.auto_map}
            except (BrokenBlock, Malformed, CannotSend, KeyError, TypeError, ValueError) as error:
                child.end()
                text = str(error) if isinstance(error, BrokenBlock) else f"its process described no block ({error})"
                raise LoadError(text if isinstance(error, BrokenBlock) else f"{code.named}: {text}.") from None
            _made[package] = classes
        return classes


def _class(child: Child, code: Code, package: str, name: str, described: Mapping[str, Any]) -> type[Block]:
    """The block class of a description by the other process."""
    outputs = {port: type_of(kind) for port, kind in described["outputs"].items()}
    returns: Any = NamedTuple(str(described["returns"]), list(outputs.items())) if described["returns"] else None  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]  made at run time
    inputs = {port: type_of(entry["type"]) for port, entry in described["inputs"].items()}
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for port, entry in described["inputs"].items():
        default = unpack(entry["default"], ()) if "default" in entry else inspect.Parameter.empty
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(port, kind, default=default, annotation=inputs[port]))
    signature = inspect.Signature(parameters, return_annotation=returns)

    def call(self: Block, *args: Any, **values: Any) -> Any:
        arguments = signature.bind(self, *args, **values).arguments
        del arguments["self"]
        made = child.call(name, self.config(), arguments)
        if made.keys() != outputs.keys():
            raise BrokenBlock(
                f"{name}: its process returned {', '.join(made)}, and its outputs are {', '.join(outputs)}."
            )
        return (
            None if returns is None else returns(**{port: _fit(name, port, made[port], outputs[port]) for port in made})
        )

    call.__name__, call.__qualname__ = "__call__", f"{described['class']}.__call__"
    call.__annotations__ = {**inputs, "return": returns}
    vars(call)["__signature__"] = signature
    body: dict[str, Any] = {"__call__": call, "__doc__": str(described["doc"]), "__annotations__": {}}
    for field, entry in described["fields"].items():
        body["__annotations__"][field] = type_of(entry["type"])
        default = (unpack(entry["default"], ()),) if "default" in entry else ()
        if entry["knob"]:
            body[field] = knob(*default)
        elif default:
            body[field] = default[0]
    body["__module__"] = f"{package}.{code.auto_map[name].rpartition('.')[0]}"
    made: type[Block] = types.new_class(
        str(described["class"]), (Block,), {"name": name}, lambda space: space.update(body)
    )
    made.__qualname__ = made.__name__
    return made


def _fit(name: str, port: str, value: Any, hint: Any) -> Any:
    try:
        return fitted(value, hint if not is_memory(hint) else Any)
    except Unfit as error:
        raise BrokenBlock(f"{name}: {port!r} {error}, but its process returned a {type(value).__name__}.") from None
