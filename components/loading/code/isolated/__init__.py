"""Trusted code in a process of its own: blocks here that call the real ones there.

It keeps faults apart (a crash, a hang, a global that is changed) and gives the code no environment variables and no
objects of this process. It is no sandbox: the other process may read files and use the network as its user may.
"""

import inspect
import threading
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from .....graph.block import Block, knob
from .....graph.errors import BrokenBlock, LoadError, Malformed
from .....graph.ports import is_memory
from .....graph.validate import Unfit, fitted
from ..importing import announce
from ..reading import Code
from .crossing import CannotCross, understand, unpack
from .process import Child

_LOCK = threading.Lock()
_made: dict[str, dict[str, type[Block]]] = {}


def isolated_blocks(code: Code) -> dict[str, type[Block]]:
    """Classes with the ports of those that `auto_map` names; their calls go to a process that has imported the code.

    Raises:
        LoadError: code that cannot be imported there, and blocks whose components or ports do not cross.
    """
    package = announce(code)
    with _LOCK:
        if (found := _made.get(package)) is None or found.keys() != code.auto_map.keys():
            child = Child(code)
            try:
                told = child.start()
                found = {name: _class(child, code, package, name, told[name]) for name in code.auto_map}
            except (BrokenBlock, Malformed, CannotCross, KeyError, TypeError, ValueError) as error:
                child.end()
                text = str(error) if isinstance(error, BrokenBlock) else f"its process described no block ({error})"
                raise LoadError(text if isinstance(error, BrokenBlock) else f"{code.named}: {text}.") from None
            _made[package] = found
        return found


def _class(child: Child, code: Code, package: str, name: str, told: Mapping[str, Any]) -> type[Block]:
    """A block class as the other process describes it."""
    outputs = {port: understand(kind) for port, kind in told["outputs"].items()}
    returns: Any = NamedTuple(str(told["returns"]), list(outputs.items())) if told["returns"] else None  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]  made at run time
    inputs = {port: understand(said["type"]) for port, said in told["inputs"].items()}
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    for port, said in told["inputs"].items():
        default = unpack(said["default"], ()) if "default" in said else inspect.Parameter.empty
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(port, kind, default=default, annotation=inputs[port]))
    signature = inspect.Signature(parameters, return_annotation=returns)

    def call(self: Block, *args: Any, **values: Any) -> Any:
        given = signature.bind(self, *args, **values).arguments
        del given["self"]
        made = child.call(name, self.config(), given)
        if made.keys() != outputs.keys():
            raise BrokenBlock(
                f"{name}: its process gave {', '.join(made)}, and said that it gives {', '.join(outputs)}."
            )
        return (
            None if returns is None else returns(**{port: _fit(name, port, made[port], outputs[port]) for port in made})
        )

    call.__name__, call.__qualname__ = "__call__", f"{told['class']}.__call__"
    call.__annotations__ = {**inputs, "return": returns}
    vars(call)["__signature__"] = signature
    body: dict[str, Any] = {"__call__": call, "__doc__": str(told["doc"]), "__annotations__": {}}
    for field, said in told["fields"].items():
        body["__annotations__"][field] = understand(said["type"])
        default = (unpack(said["default"], ()),) if "default" in said else ()
        if said["knob"]:
            body[field] = knob(*default)
        elif default:
            body[field] = default[0]
    body["__module__"] = f"{package}.{code.auto_map[name].rpartition('.')[0]}"
    made: type[Block] = types.new_class(str(told["class"]), (Block,), {"name": name}, lambda space: space.update(body))
    made.__qualname__ = made.__name__
    return made


def _fit(name: str, port: str, value: Any, hint: Any) -> Any:
    try:
        return fitted(value, hint if not is_memory(hint) else Any)
    except Unfit as error:
        raise BrokenBlock(f"{name}: {port!r} {error}, but its process gave a {type(value).__name__}.") from None
