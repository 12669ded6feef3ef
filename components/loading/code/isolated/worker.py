"""The isolated process: it imports trusted code, describes its blocks, and calls them.

Requests and answers are frames on two pipes. The standard input is empty, and the supervisor reads what is printed.
"""

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from .....graph.block import Block, ports_of
from .....graph.code import Source
from .....graph.errors import SfumatoError
from .....graph.validate import Unfit, fitted
from ..importing import import_blocks
from ..reading import Code
from . import confine, frames
from .descriptions import describe_block
from .messages import MEMORY, CannotSend, bytes_of, empty_tensors, filled, header_of, pack, unpack

_MAX_TEXT = 4000  # characters of an error, and of its trace
_NO_LIMIT = 2**62  # the program limits what it sends by its own memory


class Server:
    """Answers the requests of one program."""

    def __init__(self, requests: int, answers: int, answer_bytes: int) -> None:
        self.requests = requests
        self.answers = answers
        self.answer_bytes = answer_bytes
        self.blocks: dict[str, type[Block]] = {}

    def serve(self, code: Code) -> None:
        """Import the code and describe its blocks, then answer calls until the program closes its end."""
        self.answer(lambda: self.describe(code))
        while True:
            request = frames.read(self.requests)
            tensors = empty_tensors(request["tensors"], _NO_LIMIT)
            for tensor in tensors:
                frames.read_into(self.requests, bytes_of(tensor))
            self.answer(partial(self.call, request, filled(tensors, request["tensors"])))

    def answer(self, work: Callable[[], tuple[dict[str, Any], list[Tensor]]]) -> None:
        """Write the result of the work as a header and tensors, or the text of its error."""
        try:
            header, tensors = work()
            try:
                header = {**header, "tensors": header_of(tensors, self.answer_bytes)}
                frames.write(self.answers, header, map(bytes_of, tensors))
            except (CannotSend, frames.Wrong) as error:
                raise CannotSend(f"its answer {error}.") from None
            return
        except (SfumatoError, CannotSend) as error:
            failed = {"error": _text(error), "trace": ""}
        except BaseException as error:  # foreign code may raise anything; the program gets the text
            text = f"{type(error).__name__}: {_text(error)}"
            if isinstance(error, MemoryError) or "can't allocate memory" in text:  # torch has a RuntimeError
                text = f"{text.rstrip('.')}. Set {MEMORY} to allow more memory."
            failed = {"error": text, "trace": _trace(error)}
        frames.write(self.answers, failed)

    def describe(self, code: Code) -> tuple[dict[str, Any], list[Tensor]]:
        """Import the code, and describe each of its blocks."""
        self.blocks = import_blocks(code)
        return {"blocks": {name: describe_block(name, cls) for name, cls in self.blocks.items()}}, []

    def call(self, request: Mapping[str, Any], tensors: list[Tensor]) -> tuple[dict[str, Any], list[Tensor]]:
        """Call a block."""
        cls = self.blocks[request["block"]]
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
        try:
            values = {name: pack(value, back) for name, value in (out._asdict() if ports.returns else {}).items()}
        except CannotSend as error:
            raise CannotSend(f"a value of its answer {error}.") from None
        return {"values": values}, back


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_TEXT]
    except BaseException:  # its own __str__ is code of theirs too
        return "its text cannot be read"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error)[-6:])[-_MAX_TEXT:]
    except BaseException:
        return ""


def _fit(value: Any, hint: Any, name: str) -> Any:
    try:
        return fitted(value, hint)
    except Unfit as error:
        raise CannotSend(f"{name} {error}") from None


def main(start: Mapping[str, Any], work_folder: str) -> None:
    """Close the process, import the code, and serve."""
    sys.stdout = sys.stderr
    code = Code(
        start["code"]["where"], Path(work_folder, "code"), Source(start["code"]["files"]), start["code"]["auto_map"]
    )
    server = Server(start["requests"], start["answers"], start["answer_bytes"])
    confine.close(start["memory"])
    try:
        server.serve(code)
    except (frames.Closed, OSError):
        os._exit(0)
