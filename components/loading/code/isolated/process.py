"""Code of one source in a separate process: called with limits, and ended after a fault."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .....graph.errors import BrokenBlock
from ..reading import Code
from . import frames
from .confine import default_memory
from .launch import Launched
from .messages import ANSWER, MEMORY, CannotSend, bytes_of, empty_tensors, filled, header_of, pack, unpack

SECONDS = "SFUMATO_ISOLATED_SECONDS"
"""The environment variable for the seconds that a call may take: 300."""
_NO_LIMIT = 2**62
_MAX_ERROR = 4000  # characters


class IsolatedCode:
    """The code of one source. Its process starts at the first request, and again after it ended."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.blocks: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._launched: Launched | None = None

    def start(self) -> dict[str, Any]:
        """Import the code and return the descriptions of its blocks. BrokenBlock if that fails."""
        with self._lock:
            self._ready(time.monotonic() + _seconds())
            return self.blocks

    def call(self, block: str, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a block in the process. BrokenBlock if it raises, ends, sends an invalid answer or takes too long."""
        with self._lock:
            deadline = time.monotonic() + _seconds()
            tensors: list[Tensor] = []
            values = {name: self._pack(block, name, value, tensors) for name, value in arguments.items()}
            request = {
                "block": block, "values": values,
                "config": {name: self._pack(block, name, value, []) for name, value in config.items()},
            }  # fmt: skip
            launched = self._ready(deadline)
            launched.run()
            answer, made = self._ask(launched, request, tensors, deadline, block)
            device = tensors[0].device if tensors else torch.device("cpu")
            try:
                match answer:
                    case {"values": dict(values)}:
                        made = [tensor.to(device) for tensor in made]
                        return {str(name): unpack(value, made) for name, value in values.items()}
                    case _:
                        raise CannotSend("has no values")
            except (CannotSend, RecursionError) as error:
                raise self._wrong(block, error) from None

    def end(self) -> None:
        """End the process. The next request starts another."""
        if self._launched is not None:
            self._launched.end()
        self._launched = None

    def _pack(self, block: str, name: str, value: Any, tensors: list[Tensor]) -> Any:
        try:
            return pack(value, tensors)
        except (CannotSend, RecursionError) as error:
            raise BrokenBlock(f"{block}: {name!r} {error}.") from None

    # ------------------------------------------------------------------------------------------- the process
    def _ready(self, deadline: float) -> Launched:
        if self._launched is not None and self._launched.alive:
            return self._launched
        self.end()
        code = self.code
        start = {
            "code": {"where": code.where, "files": dict(code.source.files), "auto_map": dict(code.auto_map)},
            "memory": int(_number(MEMORY, 2**30, default_memory())), "answer_bytes": _answer_bytes(),
        }  # fmt: skip
        try:
            launched = self._launched = Launched(start)
        except OSError as error:
            raise BrokenBlock(
                f"{code.named}: a separate process cannot be started ({error.strerror or error})."
            ) from None
        answer, _ = self._ask(launched, None, [], deadline, "the import")
        if not isinstance(answer.get("blocks"), dict):
            raise self._wrong("the import", "names no blocks")
        self.blocks = answer["blocks"]
        return launched

    def _ask(
        self, launched: Launched, request: dict[str, Any] | None, tensors: list[Tensor], deadline: float, what: str
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """Send a request, if there is one, and read the next answer with its tensors."""
        complete = False
        try:
            if request is not None:
                header = {**request, "tensors": header_of(tensors, _NO_LIMIT)}
                frames.write(launched.requests, header, map(bytes_of, tensors), deadline)
            answer = frames.read(launched.answers, deadline)
            if not isinstance(answer, dict):
                raise frames.Wrong("is no table")
            made: list[Tensor] = []
            if "error" not in answer:
                made = empty_tensors(answer.get("tensors"), _answer_bytes())
                for tensor in made:
                    frames.read_into(launched.answers, bytes_of(tensor), deadline)
                made = filled(made, answer["tensors"])
            launched.stop()
            complete = True
        except frames.Late:
            raise self._late(what) from None
        except frames.Closed:
            raise self._gone(launched, what) from None
        except (frames.Wrong, CannotSend) as error:
            raise self._wrong(what, error) from None
        finally:
            if not complete:  # Ctrl-C too: the rest of this answer would be read as the next one
                self.end()
        if "error" in answer:
            text = str(answer["error"])[:_MAX_ERROR]
            trace = str(answer.get("trace", ""))[-_MAX_ERROR:].rstrip()
            lines = "\n  ".join(["", *trace.splitlines()]).rstrip()
            raise BrokenBlock(f"{self.code.named}, in a separate process: {text}{lines}")
        return answer, made

    # ------------------------------------------------------------------------------------------- what goes wrong
    def _late(self, what: str) -> BrokenBlock:
        return BrokenBlock(
            f"{self.code.named}: {what} took more than {_seconds():g} s in its separate process, which was ended. The "
            f"next call starts another. Set {SECONDS} to wait longer."
        )

    def _gone(self, launched: Launched, what: str) -> BrokenBlock:
        status, why, output = launched.end(wait=1)
        if why:
            how = f"was ended in {what}: {why}"
        elif status is None:
            how = f"closed its pipes in {what}, and was ended"
        else:
            how = f"ended {f'with status {status}' if status >= 0 else f'by {_signal_name(-status)}'} in {what}"
        lines = output.strip().splitlines()[-8:]
        last = "\n  ".join([" Its last output:", *(line[:200] for line in lines)]) if lines else ""
        return BrokenBlock(f"{self.code.named}: its process {how}. The next call starts another.{last}")

    def _wrong(self, what: str, why: object) -> BrokenBlock:
        self.end()
        return BrokenBlock(
            f"{self.code.named}: the answer of its process to {what} is invalid: it {str(why)[:300]}. The "
            "process was ended."
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _seconds() -> float:
    return _number(SECONDS, 1, 300)


def _answer_bytes() -> int:
    return int(_number(ANSWER, 10**6, 512 * 10**6))


def _number(name: str, unit: int, default: float) -> float:
    """A limit: the value of an environment variable in its unit, or the default."""
    text = os.environ.get(name)
    try:
        number = float(text) * unit if text else float(default)
    except ValueError:
        number = 0.0
    if 0 < number < 2**62:
        return number
    raise BrokenBlock(f"{name} needs a number greater than 0, got {text!r}.")
