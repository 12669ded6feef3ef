"""Small files from the web and answers of servers, by http and https."""

import time
from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode

from ...registry import printable

_CHUNK = 1 << 16
_DETAIL = 500  # bytes of the text of an error


def is_address(text: str) -> bool:
    """Whether a text is an address of the web and not a file.

    >>> is_address("https://example.com/fox.png"), is_address("fox.png")
    (True, False)
    """
    return text.lower().startswith(("http://", "https://"))


class Answer(NamedTuple):
    """The answer of a server. headers: by names in small letters."""

    content: bytes
    headers: Mapping[str, str]


def fetch(address: str, *, max_bytes: int, seconds: float) -> bytes:
    """Return the file at an address.

    max_bytes: the largest file that is read. seconds: for all of it, from the look-up of the host's name to the end.

    Raises:
        OSError: no answer, an answer that is an error, a file that is too large, or a transfer that takes too long.
    """
    return _answer(request.Request(address), address, max_bytes, seconds, redirects=True).content


def post(
    address: str,
    content: bytes,
    query: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    max_bytes: int,
    seconds: float,
) -> Answer:
    """Send content to an address, and return the answer. A redirection is an error, so that nothing goes elsewhere.

    query: parameters of the address; a list is one parameter for each entry.

    Raises:
        OSError: as `fetch`.
    """
    url = f"{address}{'&' if '?' in address else '?'}{urlencode(query, doseq=True)}"
    sent = request.Request(url, content, dict(headers), method="POST")
    return _answer(sent, address, max_bytes, seconds, redirects=False)


def _answer(query: request.Request, address: str, max_bytes: int, seconds: float, *, redirects: bool) -> Answer:
    query.add_header("User-Agent", "sfumato")
    # A thread, since no time limit of sockets covers names of hosts and headers that arrive letter by letter.
    results: SimpleQueue[Answer | Exception] = SimpleQueue()
    Thread(target=_fetch_into, args=(results, query, max_bytes, seconds, redirects), daemon=True).start()
    try:
        result = results.get(timeout=seconds)
    except Empty:
        result = TimeoutError()
    match result:
        case Answer():
            return result
        case HTTPError():
            text = f"the server answered {result.code} ({result.reason}).{_detail(result)}"
        case TimeoutError():
            text = f"the transfer took longer than {seconds:g} seconds."
        case URLError():
            text = f"cannot be reached ({result.reason})."
        case _TooLarge():
            text = f"is larger than {max_bytes >> 20} MiB."
        case _:
            text = f"cannot be read ({result or type(result).__name__})."
    raise OSError(printable(f"{address}: {text}"))


def _detail(error: HTTPError) -> str:
    """The server's text about an error, if it is plain text."""
    text = getattr(error, "sfumato_detail", b"").decode(errors="replace").strip()
    return f" It says: {text}" if text else ""


class _TooLarge(Exception):
    """A file with more bytes than may be read."""


def _fetch_into(
    results: "SimpleQueue[Answer | Exception]", query: request.Request, max_bytes: int, seconds: float, redirects: bool
) -> None:
    try:
        results.put(_fetched(query, max_bytes, seconds, redirects))
    except Exception as error:  # sent to the caller, which waits for it
        results.put(_closed(error) if isinstance(error, HTTPError) else error)


def _closed(error: HTTPError) -> HTTPError:
    """An error without its connection, with the first bytes of the server's plain text."""
    with error:
        if (error.headers.get("Content-Type") or "").startswith("text/plain"):
            with suppress(Exception):
                vars(error)["sfumato_detail"] = error.read(_DETAIL)
    return error


def _fetched(query: request.Request, max_bytes: int, seconds: float, redirects: bool) -> Answer:
    end = time.monotonic() + seconds
    data = bytearray()
    with _opener(redirects).open(query, timeout=seconds) as answer:
        while part := answer.read1(_CHUNK):
            data += part
            if len(data) > max_bytes:
                raise _TooLarge
            if time.monotonic() > end:
                raise TimeoutError
        return Answer(bytes(data), {name.lower(): value for name, value in answer.headers.items()})


def _opener(redirects: bool) -> request.OpenerDirector:
    """An opener without files, FTP and data addresses, so that a redirection leads to none of them."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor, request.UnknownHandler, *((request.HTTPRedirectHandler,) if redirects else ()),
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
