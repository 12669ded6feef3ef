"""Blocks whose calls are sent to the process that has imported their code."""

import inspect
import threading
import types
from typing import Any, NamedTuple

from .....graph.block import Block
from .....graph.errors import BrokenBlock, LoadError, Malformed
from .....graph.fields import knob
from .....graph.ports import is_memory
from .....graph.validate import Unfit, fitted
from ..importing import announce
from ..reading import Code
from .descriptions import Described, described
from .messages import CannotSend
from .process import IsolatedCode

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
            isolated = IsolatedCode(code)
            try:
                descriptions = isolated.start()
                classes = {name: _class(isolated, package, name, described(descriptions.get(name)))
                           for name in code.auto_map}  # fmt: skip
            except BrokenBlock as error:
                isolated.end()
                raise LoadError(str(error)) from None
            except (Malformed, CannotSend, TypeError, ValueError, RecursionError) as error:
                isolated.end()
                raise LoadError(f"{code.named}: its process described no block ({error}).") from None
            _made[package] = classes
        return classes


def _class(isolated: IsolatedCode, package: str, name: str, block: Described) -> type[Block]:
    """The block class of a description by the other process."""
    returns: Any = NamedTuple(block.returns, list(block.outputs.items())) if block.returns else None  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]  made at run time
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for port, entry in block.inputs.items():
        default = entry.default[0] if entry.default else inspect.Parameter.empty
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(port, kind, default=default, annotation=entry.type))
    signature = inspect.Signature(parameters, return_annotation=returns)

    def call(self: Block, *args: Any, **values: Any) -> Any:
        arguments = signature.bind(self, *args, **values).arguments
        del arguments["self"]
        made = isolated.call(name, self.config(), arguments)
        if made.keys() != block.outputs.keys():
            raise BrokenBlock(f"{name}: its process returned other outputs than {', '.join(block.outputs) or 'none'}.")
        if returns is None:
            return None
        return returns(**{port: _fit(name, port, made[port], hint) for port, hint in block.outputs.items()})

    call.__name__, call.__qualname__ = "__call__", f"{block.name}.__call__"
    call.__annotations__ = {**{port: entry.type for port, entry in block.inputs.items()}, "return": returns}
    vars(call)["__signature__"] = signature
    body: dict[str, Any] = {"__call__": call, "__doc__": block.doc, "__annotations__": {}}
    for field, held in block.fields.items():
        body["__annotations__"][field] = held.type
        if held.knob:
            body[field] = knob(*held.default)
        elif held.default:
            body[field] = held.default[0]
    body["__module__"] = f"{package}.{isolated.code.auto_map[name].rpartition('.')[0]}"
    made: type[Block] = types.new_class(block.name, (Block,), {"name": name}, lambda space: space.update(body))
    made.__qualname__ = made.__name__
    return made


def _fit(name: str, port: str, value: Any, hint: Any) -> Any:
    try:
        return fitted(value, hint if not is_memory(hint) else Any)
    except Unfit as error:
        raise BrokenBlock(f"{name}: {port!r} {error}, but its process returned a {type(value).__name__}.") from None
