"""The other process: it imports trusted code, says what its blocks take and give, and calls them.

Requests come as lines of JSON on the standard input, answers go out likewise; tensors lie in shared memory that the
parent makes and removes. What the code prints goes to the standard error.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import MISSING, fields
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, BinaryIO, get_type_hints

import torch
from torch import Tensor

from .....graph.block import Block, ports_of
from .....graph.code import Source
from .....graph.errors import SfumatoError
from .....graph.ports import Input
from .....graph.validate import Unfit, fitted
from ..importing import import_blocks
from ..reading import Code
from .crossing import WHAT, CannotCross, describe, layout, pack, raw, tensors_in, unpack


class Server:
    """Answers one parent."""

    def __init__(self, asked: BinaryIO, said: BinaryIO) -> None:
        self.asked = asked
        self.said = said
        self.blocks: dict[str, type[Block]] = {}

    def serve(self) -> None:
        """Until the parent closes its end."""
        while (request := self.hear()) is not None:
            try:
                if request["do"] == "import":
                    self.say({"blocks": self.bring(request)})
                else:
                    self.call(request)
            except SfumatoError as error:
                self.say({"error": str(error), "trace": ""})
            except BaseException as error:  # whatever the code does; the parent is told
                trace = "".join(traceback.format_exception(error)[-6:])
                self.say({"error": f"{type(error).__name__}: {_text(error)}", "trace": trace})

    def hear(self) -> dict[str, Any] | None:
        line = self.asked.readline()
        return json.loads(line) if line else None

    def say(self, answer: dict[str, Any]) -> None:
        self.said.write(json.dumps(answer).encode() + b"\n")
        self.said.flush()

    def bring(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the code, and describe each of its blocks."""
        code = Code(request["where"], Path(request["place"]), Source(request["files"]), request["auto_map"])
        self.blocks = import_blocks(code)
        return {name: _described(name, cls) for name, cls in self.blocks.items()}

    def call(self, request: dict[str, Any]) -> None:
        """Call a block on what lies in the parent's memory, and put what it gives where the parent says."""
        cls = self.blocks[request["block"]]
        data = bytearray()
        if request["memory"] is not None:
            memory = SharedMemory(request["memory"])
            assert memory.buf is not None
            data = bytearray(memory.buf)
            memory.close()
        tensors = tensors_in(data, request["tensors"])
        hints = get_type_hints(cls, include_extras=True)
        config = {name: _fit(unpack(value, ()), hints[name], name) for name, value in request["config"].items()}
        ports = ports_of(cls)
        types = {name: port.type for name, port in {**ports.inputs, **ports.signature.memory}.items()}
        given = {name: _fit(unpack(value, tensors), types[name], name) for name, value in request["values"].items()}
        with torch.no_grad():
            out = cls(**config)(**given)
        if type(out) is not (ports.returns or type(None)):
            raise CannotCross(f"it gave a {type(out).__name__}, and its signature says {ports.returns}")
        back: list[Tensor] = []
        values = {name: pack(value, back) for name, value in (out._asdict() if ports.returns else {}).items()}
        made = layout(back)
        self.say({"values": values, "tensors": made.header, "size": made.size})
        if made.size:
            answer = self.hear()
            if answer is None:
                return
            memory = SharedMemory(answer["memory"])
            for tensor, entry in zip(back, made.header, strict=True):
                _put(memory, entry["offset"], raw(tensor))
            memory.close()
            self.say({"done": True})


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its own __str__ is code of theirs too
        return "its text cannot be had"


def _put(memory: SharedMemory, offset: int, data: Tensor) -> None:
    if data.numel():
        torch.frombuffer(memory.buf, dtype=torch.uint8, count=data.numel(), offset=offset).copy_(data)


def _fit(value: Any, hint: Any, name: str) -> Any:
    try:
        return fitted(value, hint)
    except Unfit as error:
        raise CannotCross(f"{name} {error}") from None


def _described(name: str, cls: type[Block]) -> dict[str, Any]:
    ports = ports_of(cls)
    problems: list[str] = []
    if ports.components:
        problems.append(f"it holds {', '.join(ports.components)}: a model is not copied into another process")
    if ports.signature.running is not None:
        problems.append(f"{ports.signature.running!r} is the run, which stays in its process")

    def told(port: str, hint: Any) -> Any:
        try:
            return describe(hint)
        except CannotCross as error:
            problems.append(f"{port!r} is {error}")
            return None

    def taken(port: str, made: Input) -> dict[str, Any]:
        data = {"type": told(port, made.type)}
        if not made.required:
            data["default"] = pack(made.default, [])
        return data

    signature = ports.signature
    hints = get_type_hints(cls, include_extras=True)
    held: dict[str, Any] = {}
    for f in fields(cls):  # type: ignore[arg-type]  # every block is a dataclass
        if "component" not in f.metadata:
            held[f.name] = {"type": told(f.name, hints[f.name]), "knob": "knob" in f.metadata}
            if f.default is not MISSING:
                held[f.name]["default"] = pack(f.default, [])
    inputs = {n: taken(n, made) for n, made in signature.inputs.items() if n not in ports.knobs}
    inputs |= {n: taken(n, made) for n, made in signature.memory.items()}
    gives = get_type_hints(ports.returns, include_extras=True) if ports.returns else {}
    outputs = {n: told(n, hint) for n, hint in gives.items()}
    if problems:
        text = "; ".join(problems)
        raise CannotCross(f"{name}: {WHAT} cross between processes, and {text}")
    return {
        "class": cls.__name__, "doc": cls.__doc__ or "", "fields": held, "inputs": inputs, "outputs": outputs,
        "returns": ports.returns.__name__ if ports.returns else None,
    }  # fmt: skip


def main() -> None:
    """Serve on the standard input and output, which the code itself does not get."""
    asked, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # The parent owns all memory; Python before 3.13 would let this process remove it as well.
    resource_tracker.register = lambda name, rtype: None  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType]
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    Server(asked, said).serve()
    _end()


def _watch(parent: int) -> None:
    """End when the parent is gone, whatever the code does then: in the middle of a call, nobody hears its end close."""
    while os.getppid() == parent:
        time.sleep(1)
    _end()


def _end() -> None:
    """End this process and all that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
