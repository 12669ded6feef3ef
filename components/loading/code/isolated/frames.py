"""Frames on pipes: a length, a header of JSON, and bytes. Each end has a limit for the header, and for the time."""

import json
import os
import selectors
import struct
import time
from collections.abc import Iterable
from typing import Any

from .....graph import json_text

LONGEST = 4 * 2**20
"""Bytes of the longest header. JSON takes up to thirty times as much when it is read."""
_LENGTH = struct.Struct(">I")
_ONCE = 2**20  # bytes


class Late(Exception):
    """The other end did not read or write in time."""


class Closed(Exception):
    """The other end is closed."""


class Wrong(ValueError):
    """Bytes that are no frame. The text describes them."""


def write(file: int, header: Any, parts: Iterable[memoryview] = (), deadline: float | None = None) -> None:
    """Write a frame.

    Args:
        file: the writing end of a pipe.
        header: a JSON value.
        parts: the bytes that follow it.
        deadline: the time (`time.monotonic`) at which `Late` is raised; None to wait without end.

    Raises:
        Late, Closed: the other end does not read.
        Wrong: a header that is too long.
    """
    data = json.dumps(header).encode()
    if len(data) > LONGEST:
        raise Wrong(f"has {len(data) / 1e6:.1f} MB of plain values, and {LONGEST / 1e6:.1f} MB are possible")
    os.set_blocking(file, deadline is None)
    for part in (memoryview(_LENGTH.pack(len(data)) + data), *parts):
        left = part
        while left:
            _check(deadline)
            try:
                left = left[os.write(file, left[:_ONCE]) :]
            except BlockingIOError:
                _wait(file, selectors.EVENT_WRITE, deadline)
            except BrokenPipeError:
                raise Closed from None


def read(file: int, deadline: float | None = None) -> Any:  # a JSON value
    """The header of the next frame. Wrong for one that is too long or no JSON; Late, Closed as for `write`."""
    head = bytearray(_LENGTH.size)
    read_into(file, memoryview(head), deadline)
    (length,) = _LENGTH.unpack(head)
    if length > LONGEST:
        raise Wrong(f"has a header of {length / 1e6:.1f} MB, and {LONGEST / 1e6:.1f} MB are possible")
    data = bytearray(length)
    read_into(file, memoryview(data), deadline)
    try:
        return json_text.parse(data.decode(), infinity=True)
    except ValueError:
        raise Wrong("has a header that is not strict JSON, or exceeds its limits") from None


def read_into(file: int, buffer: memoryview, deadline: float | None = None) -> None:
    """Fill a buffer with the bytes that follow."""
    os.set_blocking(file, deadline is None)
    while buffer:
        _check(deadline)
        try:
            count = os.readv(file, [buffer[:_ONCE]])
        except BlockingIOError:
            _wait(file, selectors.EVENT_READ, deadline)
            continue
        if not count:
            raise Closed
        buffer = buffer[count:]


def _check(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise Late


def _wait(file: int, event: int, deadline: float | None) -> None:
    with selectors.DefaultSelector() as ready:
        ready.register(file, event)
        ready.select(None if deadline is None else max(0.0, deadline - time.monotonic()))
