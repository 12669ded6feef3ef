"""Answers in place of those of the Hub: pages of portals, wrong lengths and hashes, redirects, bodies without end."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sfumato as sf

from ..checkpoint import CALL, checkpoint, each, fresh
from ..table import Action, Hostile
from .weights import CONTROL

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PORTAL = b"<!DOCTYPE html><html><title>Sign in to the network</title></html>"
LARGE = (".safetensors", ".bin")

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the Hub does, save where `server.listing` or `server.file` answers otherwise."""

    protocol_version = "HTTP/1.1"
    server: "Server"  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer a listing or a file."""
        path = unquote(self.path.partition("?")[0]).strip("/")
        try:
            if path.startswith("api/models/"):
                if self.server.listing is not None:
                    self.server.listing(self)
                else:
                    self.give(json.dumps(self.server.told()).encode(), kind="application/json")
            elif found := re.fullmatch(r"[^/]+/[^/]+/resolve/[^/]+/(.+)", path):
                self.server.name = found[1]
                if self.server.file is not None and re.search(self.server.which, found[1]):
                    self.server.file(self)
                else:
                    self.give_file(found[1])
            else:
                self.give(b"", 404, {"X-Error-Code": "RepoNotFound"})
        except OSError:
            self.close_connection = True  # the client has gone

    def give_file(self, name: str, headers: dict[str, str] | None = None) -> None:
        """Send a file of the repo."""
        file = self.server.folder / name
        if not file.is_file():
            self.give(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return
        data = file.read_bytes()
        own = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        self.give(data, headers={**own, **(headers or {})})

    def give(
        self, data: bytes, status: int = 200, headers: dict[str, str] | None = None, kind: str = "text/html"
    ) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """Serves a folder as the repo `someone/tiny`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.name = folder, ""
        self.listing: Answer | None = None
        self.file: Answer | None = None
        self.which = "."
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def told(self, **changes: Any) -> dict[str, Any]:
        """What the Hub says of the repo."""
        siblings = [self._sibling(p) for p in sorted(self.folder.rglob("*")) if p.is_file()]
        return {"id": "someone/tiny", "sha": COMMIT, "siblings": siblings, **changes}

    def _sibling(self, file: Path) -> dict[str, Any]:
        name, data = file.relative_to(self.folder).as_posix(), file.read_bytes()
        told: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": "0"}
        if name.endswith(LARGE):
            told["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 1}
        return told

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing."""


def _json(data: Any) -> Answer:
    return lambda handler: handler.give(json.dumps(data).encode(), kind="application/json")


def _changed(change: Callable[[dict[str, Any]], Any]) -> Answer:
    """The listing, changed."""

    def answer(handler: Handler) -> None:
        data = handler.server.told()
        made = change(data)
        handler.give(json.dumps(data if made is None else made).encode(), kind="application/json")

    return answer


def _more_files(*names: str) -> Answer:
    return _changed(lambda data: data["siblings"].extend({"rfilename": n, "size": 1, "blobId": "0"} for n in names))


def _endless(piece: bytes, pause: float = 0.0, headers: dict[str, str] | None = None) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.close_connection = True
        while handler.command != "HEAD":
            handler.wfile.write(piece)
            time.sleep(pause)

    return answer


def _once(answer: Answer) -> Answer:
    """Another answer to the first request alone: the client asks again after a second."""
    asked: list[str] = []

    def first(handler: Handler) -> None:
        asked.append(handler.path)
        if len(asked) == 1:
            answer(handler)
        else:
            handler.give_file(handler.server.name)

    return first


def _silent(handler: Handler) -> None:
    time.sleep(60)


def _closed(handler: Handler) -> None:
    handler.close_connection = True
    handler.connection.close()


def _raw(data: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def _file_of(size: int) -> dict[str, str]:
    return {"X-Repo-Commit": COMMIT, "ETag": f'"{"0" * 64}"', "Content-Length": str(size)}


def _lfs(**values: Any) -> Answer:
    def change(data: dict[str, Any]) -> None:
        for sibling in data["siblings"]:
            if "lfs" in sibling:
                sibling["lfs"].update(values)

    return _changed(change)


def _sizes(size: Any) -> Answer:
    def change(data: dict[str, Any]) -> None:
        for sibling in data["siblings"]:
            sibling["size"] = size

    return _changed(change)


LISTINGS: dict[str, Answer] = {
    "a portal": lambda h: h.give(PORTAL),
    "a portal that says it is JSON": lambda h: h.give(PORTAL, kind="application/json"),
    "a portal with 401": lambda h: h.give(PORTAL, 401),
    "a portal with 403": lambda h: h.give(PORTAL, 403),
    "a portal with 511": lambda h: h.give(PORTAL, 511),
    "nothing": lambda h: h.give(b""),
    "204": lambda h: h.give(b"", 204),
    "500": lambda h: h.give(b"", 500),
    "429 without end": lambda h: h.give(b"", 429, {"Retry-After": "1"}),
    "503 for an hour": lambda h: h.give(b"", 503, {"Retry-After": "3600"}),
    "418 with control characters": lambda h: h.give(CONTROL.encode(), 418, {"X-Error-Message": "\x1b[31mred\x07"}),
    "an error of control characters in JSON": lambda h: h.give(
        json.dumps({"error": CONTROL}).encode(), 400, kind="application/json"
    ),
    "a page of 1 MB with 500": lambda h: h.give(b"<html>" * 200_000, 500),
    "a list": _json([]),
    "null": _json(None),
    "a text": _json("x"),
    "an empty object": _json({}),
    "no files": _json({"id": "someone/tiny", "sha": COMMIT}),
    "files null": _json({"id": "someone/tiny", "sha": COMMIT, "siblings": None}),
    "files that are numbers": _json({"id": "someone/tiny", "sha": COMMIT, "siblings": [1, 2]}),
    "files that are texts": _json({"id": "someone/tiny", "sha": COMMIT, "siblings": ["a"]}),
    "files without names": _json({"id": "someone/tiny", "sha": COMMIT, "siblings": [{}]}),
    "names that are numbers": _json({"id": "someone/tiny", "sha": COMMIT, "siblings": [{"rfilename": 7}]}),
    "names that are lists": _json({"id": "someone/tiny", "sha": COMMIT, "siblings": [{"rfilename": ["a"]}]}),
    "no commit": _changed(lambda d: d.pop("sha") and None),
    "a commit of null": _changed(lambda d: d.update(sha=None)),
    "a commit that leads out": _changed(lambda d: d.update(sha="../../../../x")),
    "a commit that is absolute": _changed(lambda d: d.update(sha="/etc")),
    "a commit of control characters": _changed(lambda d: d.update(sha=CONTROL)),
    "a commit that is a number": _changed(lambda d: d.update(sha=7)),
    "a commit of a long text": _changed(lambda d: d.update(sha="a" * 10_000)),
    "another repo": _changed(lambda d: d.update(id="other/repo")),
    "a file above": _more_files("../../evil.json", "unet/../../../evil.json"),
    "an absolute file": _more_files("/etc/evil.json"),
    "a file of another drive": _more_files("C:\\evil.json", "..\\evil.json"),
    "a file with NUL": _more_files("unet/a\0.json"),
    "a file of control characters": _more_files(f"unet/{CONTROL}.json"),
    "a file of a lone surrogate": _more_files("unet/\ud800.json"),
    "a file of a long name": _more_files("unet/" + "x" * 5000 + ".json"),
    "a file of an empty name": _more_files("", "unet/", "/", "."),
    "a file twice": _more_files("model_index.json", "unet/config.json"),
    "a folder that is a file": _more_files("unet", "unet/config.json/x.json"),
    "small files that are not there": _more_files("unet/absent.json", "tokenizer/absent.txt"),
    "a million files": _changed(
        lambda d: d["siblings"].extend({"rfilename": f"x/{i}.json", "size": 1} for i in range(1_000_000))
    ),
    "20,000 small files of a part": _changed(
        lambda d: d["siblings"].extend({"rfilename": f"unet/{i}.json", "size": 1} for i in range(20_000))
    ),
    "a hash of another file": _lfs(sha256="0" * 64),
    "a hash that is none": _lfs(sha256=CONTROL),
    "a hash that is a number": _lfs(sha256=7),
    "a hash of null": _lfs(sha256=None),
    "a size of 10**18": _sizes(10**18),
    "a size of -1": _sizes(-1),
    "a size of a text": _sizes(CONTROL),
    "a size of 1e400": lambda h: h.give(
        json.dumps(h.server.told()).replace('"size": ', '"size": 1e400, "was": ').encode(), kind="application/json"
    ),
    "a size of many digits": lambda h: h.give(
        json.dumps(h.server.told()).replace('"size": ', f'"size": {"9" * 5000}, "was": ').encode(),
        kind="application/json",
    ),
    "deep": lambda h: h.give(b"[" * 200_000, kind="application/json"),
    "not UTF-8": lambda h: h.give(b'{"id": "\xff\xfe"}', kind="application/json"),
    "cut": lambda h: h.give(b'{"id": "someone/tiny", "sib', kind="application/json"),
    "shorter than it says": lambda h: (
        h.give(b"{", headers={"Content-Length": "1000"}),
        setattr(h, "close_connection", True),
    )[0],
    "endless": _endless(b" " * (1 << 20)),
    "endless and slow": _endless(b" ", 0.05),
    "silent": _silent,
    "closed at once": _closed,
    "no HTTP": _raw(b"SSH-2.0-OpenSSH\r\n"),
    "headers without end": _raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000),
    "a header of control characters": _raw(b"HTTP/1.1 200 OK\r\nX-\x1b[31m: \x07\r\nContent-Length: 2\r\n\r\n{}"),
    "a length that is no number": _raw(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}"),
    "a reason of control characters": _raw(b"HTTP/1.1 500 \x1b[31mred\x07\r\nContent-Length: 0\r\n\r\n"),
    "a redirect to itself": lambda h: h.give(b"", 307, {"Location": h.path}),
    "a redirect to a file": lambda h: h.give(b"", 302, {"Location": "file:///etc/passwd"}),
    "a redirect to another server": lambda h: h.give(b"", 302, {"Location": "http://127.0.0.2:1/x"}),
    "a redirect to nowhere": lambda h: h.give(b"", 302, {"Location": ""}),
    "a redirect to control characters": lambda h: h.give(b"", 302, {"Location": "http://\x1b[31m/"}),
    "compressed without end": lambda h: h.give(_zeros(), headers={"Content-Encoding": "gzip"}, kind="application/json"),
}
FILES: dict[str, Answer] = {
    "a portal": lambda h: h.give(PORTAL),
    "a portal with the headers of a file": lambda h: h.give(PORTAL, headers={"X-Repo-Commit": COMMIT, "ETag": '"x"'}),
    "no headers": lambda h: h.give((h.server.folder / h.server.name).read_bytes()),
    "nothing": lambda h: h.give(b"", headers={"X-Repo-Commit": COMMIT, "ETag": '"x"'}),
    "404": lambda h: h.give(b"", 404, {"X-Error-Code": "EntryNotFound"}),
    "416": lambda h: h.give(b"", 416),
    "500 once": _once(lambda h: h.give(b"", 500)),
    "another commit": lambda h: h.give_file(h.server.name, {"X-Repo-Commit": "f" * 40}),
    "a commit that leads out": lambda h: h.give_file(h.server.name, {"X-Repo-Commit": "../../../x"}),
    "a tag that leads out": lambda h: h.give_file(h.server.name, {"ETag": '"../../../../../evil"'}),
    "an absolute tag": lambda h: h.give_file(h.server.name, {"ETag": '"/tmp/evil"'}),
    "an empty tag": lambda h: h.give_file(h.server.name, {"ETag": '""'}),
    "a tag of a long text": lambda h: h.give_file(h.server.name, {"ETag": f'"{"x" * 5000}"'}),
    "a length of 10**18": lambda h: h.give(b"x", headers=_file_of(10**18)),
    "a length of 0": lambda h: h.give(b"x" * 100, headers=_file_of(0)),
    "a length of -1": lambda h: h.give(b"x", headers=_file_of(-1)),
    "longer than it says": lambda h: h.give(
        (h.server.folder / h.server.name).read_bytes() + b"x" * 10**6, headers=_file_of(100)
    ),
    "other bytes": lambda h: h.give(
        bytes(len((h.server.folder / h.server.name).read_bytes())), headers={"X-Repo-Commit": COMMIT, "ETag": '"0"'}
    ),
    "endless": _endless(b"x" * (1 << 20), headers={"X-Repo-Commit": COMMIT, "ETag": '"x"'}),
    "closed at once": _closed,
    "a redirect to itself": lambda h: h.give(b"", 307, {"Location": h.path, "X-Repo-Commit": COMMIT, "ETag": '"x"'}),
    "a redirect to another server": lambda h: h.give(
        b"", 302, {"Location": "http://127.0.0.2:1/x", "X-Repo-Commit": COMMIT, "ETag": '"x"', "X-Linked-Size": "1"}
    ),
    "a redirect to a file": lambda h: h.give(
        b"", 302, {"Location": "file:///etc/passwd", "X-Repo-Commit": COMMIT, "ETag": '"x"'}
    ),
    "a linked size that lies": lambda h: h.give_file(h.server.name, {"X-Linked-Size": "10", "X-Linked-Etag": '"y"'}),
    "a hash of Xet": lambda h: h.give_file(h.server.name, {"X-Xet-Hash": "../x", "X-Xet-Refresh-Route": "/x"}),
}


def _zeros() -> bytes:
    import gzip

    return gzip.compress(bytes(2 * 10**9 // 10), 1)


def inputs() -> Iterator[Hostile]:
    """Listings, and answers in place of the index, of a config and of weights."""
    for name, answer in LISTINGS.items():
        yield Hostile(f"listing: {name}", lambda place, a=answer: _asked(place, listing=a))
    for name, answer in FILES.items():
        for which in (r"model_index\.json", r"unet/config\.json", r"unet/.*safetensors"):
            yield Hostile(f"{which}: {name}", lambda place, a=answer, w=which: _asked(place, file=a, which=w))


def _asked(place: Path, listing: Answer | None = None, file: Answer | None = None, which: str = ".") -> Action:
    from huggingface_hub import constants

    from sfumato.components.storage import hub

    server = Server(checkpoint(place))
    server.listing, server.file, server.which = listing, file, which
    url = f"http://127.0.0.1:{server.server_address[1]}"
    constants.ENDPOINT = url
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE = str(place / "cache")
    constants.HF_HUB_DISABLE_XET, constants.HF_HUB_OFFLINE = True, False
    constants.HF_HUB_ETAG_TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT = 1
    hub._opened.clear()  # pyright: ignore[reportPrivateUsage]  what this process asked before

    def action() -> list[object]:
        return each(
            lambda: str(sf.inspect("someone/tiny")),
            lambda: sf.load("someone/tiny", manager=fresh())(**CALL),
        )

    return action
