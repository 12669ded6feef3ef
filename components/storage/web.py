"""Small files from the web, by http and https."""

import time
from queue import Empty, SimpleQueue
from threading import Thread
from urllib import request
from urllib.error import HTTPError, URLError

from ...registry import printable

_CHUNK = 1 << 16


def is_address(text: str) -> bool:
    """Whether a text is an address of the web and not a file.

    >>> is_address("https://example.com/fox.png"), is_address("fox.png")
    (True, False)
    """
    return text.lower().startswith(("http://", "https://"))


def fetch(address: str, *, max_bytes: int, seconds: float) -> bytes:
    """Return the file at an address.

    max_bytes: the largest file that is read. seconds: for all of it, from the look-up of the host's name to the end.

    Raises:
        OSError: no answer, an answer that is an error, a file that is too large, or a transfer that takes too long.
    """
    # A thread, since no time limit of sockets covers names of hosts and headers that arrive letter by letter.
    results: SimpleQueue[bytes | Exception] = SimpleQueue()
    Thread(target=_fetch_into, args=(results, address, max_bytes, seconds), daemon=True).start()
    try:
        result = results.get(timeout=seconds)
    except Empty:
        result = TimeoutError()
    match result:
        case bytes():
            return result
        case HTTPError():
            text = f"the server answered {result.code} ({result.reason})."
        case TimeoutError():
            text = f"the transfer took longer than {seconds:g} seconds."
        case URLError():
            text = f"cannot be reached ({result.reason})."
        case _TooLarge():
            text = f"is larger than {max_bytes >> 20} MiB."
        case _:
            text = f"cannot be read ({result or type(result).__name__})."
    raise OSError(printable(f"{address}: {text}"))


class _TooLarge(Exception):
    """A file with more bytes than may be read."""


def _fetch_into(results: "SimpleQueue[bytes | Exception]", address: str, max_bytes: int, seconds: float) -> None:
    try:
        results.put(_fetched(address, max_bytes, seconds))
    except Exception as error:  # sent to the caller, which waits for it
        results.put(error)


def _fetched(address: str, max_bytes: int, seconds: float) -> bytes:
    end = time.monotonic() + seconds
    query = request.Request(address, headers={"User-Agent": "sfumato"})
    data = bytearray()
    with _opener().open(query, timeout=seconds) as answer:
        while part := answer.read1(_CHUNK):
            data += part
            if len(data) > max_bytes:
                raise _TooLarge
            if time.monotonic() > end:
                raise TimeoutError
    return bytes(data)


def _opener() -> request.OpenerDirector:
    """An opener without files, FTP and data addresses, so that a redirection leads to none of them."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler, request.HTTPErrorProcessor, request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
