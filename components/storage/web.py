"""Small files from the web, by http and https."""

import time
from http.client import HTTPException
from urllib import request
from urllib.error import HTTPError, URLError

_CHUNK = 1 << 16


def is_address(text: str) -> bool:
    """Whether a text is an address of the web and not a file.

    >>> is_address("https://example.com/fox.png"), is_address("fox.png")
    (True, False)
    """
    return text.lower().startswith(("http://", "https://"))


def fetch(address: str, *, max_bytes: int, seconds: float) -> bytes:
    """Return what is at an address.

    max_bytes: the largest file that is read. seconds: for the whole transfer.

    Raises:
        OSError: no answer, an answer that is an error, a file that is too large, or a transfer that takes too long.
    """
    end = time.monotonic() + seconds
    query = request.Request(address, headers={"User-Agent": "sfumato"})
    parts: list[bytes] = []
    try:
        with _opener().open(query, timeout=seconds) as answer:
            while part := answer.read1(_CHUNK):
                parts.append(part)
                if sum(map(len, parts)) > max_bytes:
                    raise OSError(f"{address}: is larger than {max_bytes >> 20} MiB.")
                if time.monotonic() > end:
                    raise TimeoutError
    except HTTPError as error:
        raise OSError(f"{address}: the server answered {error.code} ({error.reason}).") from None
    except TimeoutError:
        raise OSError(f"{address}: the transfer took longer than {seconds:g} seconds.") from None
    except URLError as error:
        raise OSError(f"{address}: cannot be reached ({error.reason}).") from None
    except (HTTPException, ValueError) as error:
        raise OSError(f"{address}: cannot be read ({error or type(error).__name__}).") from None
    return b"".join(parts)


def _opener() -> request.OpenerDirector:
    """An opener without files, FTP and data addresses, so that a redirection leads to none of them."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler, request.HTTPErrorProcessor, request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener
