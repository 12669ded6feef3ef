"""The Hub's answers about a repo: its commit and its files. An answer may be anything, and is read within limits."""

import re
import time
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast
from urllib.parse import quote

from ...graph import json_text
from ...graph.errors import LoadError
from ...graph.files.inside import leads_out
from ...graph.json_text import JsonTextError
from ...graph.limits import AboveLimit, check_limit, limit
from ...registry import printable

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TAG = re.compile(r'(W/)?"?[\w.+=-]{1,200}"?')
"""An ETag of the Hub: a hash. The client names a file of its cache after it."""
_HEADER = 100_000
"""The header of a safetensors file is mostly shorter."""
_LARGEST = 2**50
_WAITS = 3
"""The time for the whole answer, as a multiple of one wait for the server."""


@dataclass(frozen=True)
class RepoFile:
    """A file of a repo."""

    size: int | None = None
    """Bytes."""
    sha256: str | None = None
    """The Hub's hash. Small files have none."""
    git_hash: str | None = None
    """Git's hash (SHA-1 of the blob), which small files have."""


@dataclass(frozen=True)
class Listing:
    """A commit and its files."""

    commit: str
    files: Mapping[str, RepoFile]
    """By path in the repo."""


def read_listing(name: str, revision: str | None, token: str | bool | None) -> Listing:
    """Ask the Hub for the files of a repo at a revision.

    Raises:
        LoadError: an answer that is no listing of a repo, or one above the limits.
        Exception: the client's errors for a repo that is missing, gated or not to be reached.
    """
    from huggingface_hub import constants

    url = f"{constants.ENDPOINT}/api/models/{name}"
    url += f"/revision/{quote(revision, safe='')}" if revision is not None else ""
    text = _answer(name, url, token)
    try:
        return _listing(json_text.parse(text))
    except (JsonTextError, AboveLimit) as error:
        page = text.lstrip()[:1] == "<"
        what = "is a web page, as a network sends it that asks to sign in" if page else str(error)
        raise LoadError(
            f"{name}: the answer of the Hub {what}. Check the connection and HF_ENDPOINT, and try again."
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{name}: the answer of the Hub is no listing of a repo ({error}). Try again later.") from None


def read_numbers(name: str, path: str, revision: str, token: str | bool | None) -> dict[str, int]:
    """Count the values of each dtype in a safetensors file of a repo. Only its header is fetched.

    Raises:
        LoadError: a file that is none.
        Exception: the client's errors.
    """
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(name, path, revision=revision)
    start = _first_bytes(url, token, _HEADER)
    length = int.from_bytes(start[:8], "little")
    try:
        check_limit("header_bytes", length)
        if len(start) < 8 + length:
            start = _first_bytes(url, token, 8 + length)
        found = Counter[str]()
        for tensor, entry in json_text.parse(start[8 : 8 + length].decode()).items():
            if tensor != "__metadata__":
                found[str(entry["dtype"])] += prod(side for side in entry["shape"] if type(side) is int and side >= 0)
        return dict(found)
    except (AboveLimit, AttributeError, KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{name}/{path}: is no safetensors file ({error}). Do not use this repo.") from None


def _first_bytes(url: str, token: str | bool | None, count: int) -> bytes:
    """The first bytes at an address of the Hub, fewer where there are fewer. A server that sends more is not heard."""
    status, data = _received(url, token, {"Range": f"bytes=0-{count - 1}"}, {}, count)
    return data[:count] if status in (200, 206) else b""


def _answer(name: str, url: str, token: str | bool | None) -> str:
    """The text at an address of the Hub."""
    most = limit("listing_bytes")
    _, data = _received(url, token, {}, {"blobs": "true"}, most + 1)
    if len(data) > most:
        raise LoadError(f"{name}: the answer of the Hub has more than {most:,} bytes. Check HF_ENDPOINT.")
    return data.decode("utf-8", errors="replace")


def _received(
    url: str, token: str | bool | None, headers: Mapping[str, str], params: Mapping[str, str], most: int
) -> tuple[int, bytes]:
    """The status and the content of an answer, by the client's connections; no more than `most` bytes are waited for.

    Raises:
        TimeoutError: the whole takes too long.
        Exception: the client's error for the status.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    wait = float(constants.HF_HUB_ETAG_TIMEOUT)
    end, data = time.monotonic() + _WAITS * wait, bytearray()
    session: Any = checked_session()
    sent = {**build_hf_headers(token=token), **headers}
    with session.stream("GET", url, params=params, headers=sent, timeout=wait) as response:
        for part in response.iter_bytes():
            data += part
            if len(data) >= most:
                break
            if time.monotonic() > end:
                raise TimeoutError(f"{url}: the answer took longer than {_WAITS * wait:g} seconds")
        own = {key: value for key, value in response.headers.items() if key.lower() != "content-encoding"}
        whole: Any = type(response)(response.status_code, headers=own, content=bytes(data), request=response.request)
    hf_raise_for_status(whole)
    return response.status_code, bytes(data)


def _listing(data: Any) -> Listing:  # JSON values
    """The listing in an answer. KeyError, TypeError or ValueError where it has another form."""
    if not isinstance(data, dict):
        raise TypeError(f"needs an object, got {type(data).__name__}")
    data = cast("dict[str, Any]", data)
    commit, siblings = data["sha"], data.get("siblings") or []
    if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
        raise ValueError("its commit is no hash")
    if not isinstance(siblings, list):
        raise TypeError("its files are no list")
    siblings = cast("list[Any]", siblings)
    check_limit("repo_files", len(siblings))
    return Listing(commit, dict(_file(entry) for entry in siblings))


def _file(entry: Any) -> tuple[str, RepoFile]:  # JSON values
    path, size, large, git_hash = entry["rfilename"], entry.get("size"), entry.get("lfs"), entry.get("blobId")
    if not isinstance(path, str) or not path.strip("./"):
        raise ValueError("a file has no name")
    check_limit("path_letters", len(path))
    if leads_out(path):
        raise ValueError(f"it lists {printable(path)!r}, which leads out of the repo")
    if size is not None and (type(size) is not int or not 0 <= size <= _LARGEST):
        raise ValueError(f"the size of {printable(path)} is no number of bytes")
    sha256 = None if large is None else large.get("sha256")
    if sha256 is not None and (not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None):
        raise ValueError(f"the hash of {printable(path)} is none")
    is_hash = isinstance(git_hash, str) and _COMMIT.fullmatch(git_hash) is not None
    return path, RepoFile(size, sha256, git_hash if is_hash and large is None else None)


def checked_session() -> object:
    """The client's HTTP session. It refuses answers whose headers would lead the client out of its cache."""
    from huggingface_hub import get_session

    session: Any = get_session()
    if session not in _checked:
        session.event_hooks = {
            **session.event_hooks, "response": [*session.event_hooks.get("response", ()), _check_headers]
        }  # fmt: skip
        _checked.add(session)
    return session


_checked: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _check_headers(response: Any) -> None:  # a response of the HTTP library under the client
    for name, form in (("ETag", _TAG), ("X-Linked-Etag", _TAG), ("X-Repo-Commit", _COMMIT)):
        value = response.headers.get(name)
        if value is not None and form.fullmatch(value) is None and response.headers.get("X-Repo-Commit") is not None:
            raise LoadError(
                f"{printable(str(response.request.url))[:200]}: the server sent {printable(value[:100])!r} as "
                f"{name}, which is no hash. Check HF_ENDPOINT, and do not use this server."
            )
