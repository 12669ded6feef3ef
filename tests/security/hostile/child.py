"""One input in a process of its own: what was raised or returned, what was printed, and what else the process did."""

import json
import math
import os
import resource
import sys
import time
import traceback
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sfumato.graph.errors import SfumatoError
from sfumato.registry import UnknownName

from .table import Hostile
from .watch import Blocked, Watch, own_temporary

LONGEST_TEXT = 30_000
"""A longer text of an error helps nobody, and fills a terminal."""
LONGEST_DRAWING = 100_000
"""The svg of a whole preset has half of it."""


class Refused(Exception):
    """A command that ended with an error text of ours."""


class Faulty(Exception):
    """A command that ended in any other way."""


OURS = (SfumatoError, UnknownName, Refused)


def run_input(one: Hostile, folder: Path, output: int) -> None:
    """Run an input in `folder`, and write its verdict to the pipe `output` as JSON. The process should end then."""
    own_temporary(folder)
    os.environ["SFUMATO_HOME"], os.environ["HOME"] = str(folder / ".sfumato"), str(folder)
    null, printed = os.open(os.devnull, os.O_RDONLY), folder / ".printed"
    target = os.open(printed, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for number, source in ((0, null), (1, target), (2, target)):
        os.dup2(source, number)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    place = folder / "input"
    place.mkdir()
    try:
        action = one.make(place)
    except BaseException:
        _send(output, {"made": traceback.format_exc()[-2000:]})
        return
    before, watch = _peak(), Watch(folder)
    faults: list[str] = []
    verdict, began = "", time.process_time()
    _send(output, {"started": True})
    watch.on = True
    try:
        result = action()
        verdict = "accepted"
        watch.on = False
        faults += _unfit(result, "the result")
    except OURS as error:
        watch.on = False
        verdict = f"refused: {type(error).__name__}: {str(error)[:300]}"
        faults += _text_faults(str(error), "a text")
        for text in getattr(error, "__notes__", ()):  # drawings and results that were accepted are among them
            faults += _text_faults(text, "a note", longest=LONGEST_DRAWING)
    except Blocked as error:
        verdict = f"did what it must not: {error}"
    except BaseException as error:
        watch.on = False
        where = traceback.extract_tb(error.__traceback__)[-1]
        verdict = f"raised {type(error).__name__}: {str(error)[:300]} at {where.filename}:{where.lineno}"
        faults.append(verdict)
        if os.environ.get("SFUMATO_HOSTILE_TRACE"):
            faults.append("".join(traceback.format_exception(error)))
    watch.on = False
    seconds, peak = time.process_time() - began, _peak() - before
    sys.stdout.flush()
    sys.stderr.flush()
    faults += [f"did what it must not: {text}" for text in watch.seen]
    faults += _text_faults(printed.read_bytes().decode("utf-8", "surrogateescape"), "what was printed")
    _send(output, {"verdict": verdict, "faults": faults, "seconds": seconds, "peak": peak})


def _send(output: int, data: Mapping[str, Any]) -> None:
    os.write(output, (json.dumps(data) + "\n").encode())


def _peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def _unfit(value: object, what: str) -> list[str]:
    """What is wrong with something that was accepted."""
    if isinstance(value, torch.Tensor):
        finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
        return [] if finite else [f"{what} has numbers that are not finite"]
    if isinstance(value, float):
        return [] if math.isfinite(value) else [f"{what} is {value}"]
    if isinstance(value, Image.Image):
        return []
    if isinstance(value, Mapping):
        return [fault for one in value.values() for fault in _unfit(one, what)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [fault for one in value for fault in _unfit(one, what)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return _text_faults(str(value), what, longest=None)


def _text_faults(text: str, what: str, longest: int | None = LONGEST_TEXT) -> list[str]:
    found = sorted({hex(ord(c)) for c in text if _is_control(c)})
    faults = [f"{what} has the characters {' '.join(found[:8])}"] if found else []
    if longest is not None and len(text) > longest:
        faults.append(f"{what} has {len(text)} characters")
    if "Traceback (most recent call last)" in text:
        faults.append(f"{what} has a traceback: {text[-300:]!r}")
    return faults


def _is_control(character: str) -> bool:
    """Whether a character moves the cursor, changes colours or turns the direction of the text."""
    if character in "\n\t":
        return False
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )
