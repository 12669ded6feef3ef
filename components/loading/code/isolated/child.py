"""The separate process: it imports trusted code, describes its blocks, and calls them.

Requests are lines of JSON on the standard input, answers on the standard output. Tensors are in shared memory, which
the parent makes and removes. Output of the code goes to the standard error.
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
from .messages import SENDABLE, CannotSend, describe, layout, pack, raw, tensors_in, unpack


class Server:
    """Answers the requests of one parent."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self.requests = requests
        self.answers = answers
        self.blocks: dict[str, type[Block]] = {}

    def serve(self) -> None:
        """Answer requests until the parent closes its end."""
        while (request := self.receive()) is not None:
            try:
                if request["do"] == "import":
                    self.send({"blocks": self.import_code(request)})
                else:
                    self.call(request)
            except SfumatoError as error:
                self.send({"error": str(error), "trace": ""})
            except BaseException as error:  # foreign code may raise anything; the parent gets the text
                trace = "".join(traceback.format_exception(error)[-6:])
                self.send({"error": f"{type(error).__name__}: {_text(error)}", "trace": trace})

    def receive(self) -> dict[str, Any] | None:
        """The next request; None at the end."""
        line = self.requests.readline()
        return json.loads(line) if line else None

    def send(self, answer: dict[str, Any]) -> None:
        """Write one answer."""
        self.answers.write(json.dumps(answer).encode() + b"\n")
        self.answers.flush()

    def import_code(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the code, and describe each of its blocks."""
        code = Code(request["where"], Path(request["place"]), Source(request["files"]), request["auto_map"])
        self.blocks = import_blocks(code)
        return {name: _described(name, cls) for name, cls in self.blocks.items()}

    def call(self, request: dict[str, Any]) -> None:
        """Call a block on the tensors in the parent's memory, and write its outputs into the parent's memory."""
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
        arguments = {name: _fit(unpack(value, tensors), types[name], name) for name, value in request["values"].items()}
        with torch.no_grad():
            out = cls(**config)(**arguments)
        if type(out) is not (ports.returns or type(None)):
            raise CannotSend(f"it returned a {type(out).__name__}, and its signature has {ports.returns}")
        back: list[Tensor] = []
        values = {name: pack(value, back) for name, value in (out._asdict() if ports.returns else {}).items()}
        made = layout(back)
        self.send({"values": values, "tensors": made.header, "size": made.size})
        if made.size:
            answer = self.receive()
            if answer is None:
                return
            memory = SharedMemory(answer["memory"])
            for tensor, entry in zip(back, made.header, strict=True):
                _put(memory, entry["offset"], raw(tensor))
            memory.close()
            self.send({"done": True})


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its own __str__ is code of theirs too
        return "its text cannot be read"


def _put(memory: SharedMemory, offset: int, data: Tensor) -> None:
    if data.numel():
        torch.frombuffer(memory.buf, dtype=torch.uint8, count=data.numel(), offset=offset).copy_(data)


def _fit(value: Any, hint: Any, name: str) -> Any:
    try:
        return fitted(value, hint)
    except Unfit as error:
        raise CannotSend(f"{name} {error}") from None


def _described(name: str, cls: type[Block]) -> dict[str, Any]:
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


def main() -> None:
    """Serve on the standard input and output, which the code itself cannot use."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    # The parent owns all shared memory; Python before 3.13 would let this process remove it too.
    resource_tracker.register = lambda name, rtype: None  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType]
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    Server(requests, answers).serve()
    _end()


def _watch(parent: int) -> None:
    """End when the parent has ended: during a call, nothing reads the closed input."""
    while os.getppid() == parent:
        time.sleep(1)
    _end()


def _end() -> None:
    """End this process and all processes that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
