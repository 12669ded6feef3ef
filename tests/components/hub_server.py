"""A small server on this machine that speaks as much of the Hub's protocol as the real client asks for."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from sfumato.components.storage import hub as storage_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD = "89abcdef0123456789abcdef0123456789abcdef"
LARGE = (".safetensors", ".bin", ".ckpt")


class Hub(ThreadingHTTPServer):
    """Serves the folders of `root` as repos `owner/name`, and remembers what it gave.

    A repo called "gated" tells its files to everybody and gives them with the token "hf_let_me_in"; one called
    "private" wants it for both. A revision `old` or `OLD` is the folder `name@old`. `drop` and `cut` say of which files
    the connection breaks once after so many bytes, and which come short; `lie` which are said to have another hash.
    `moved` has old names of repos and their new ones. A file in `held` is sent up to so many bytes, and the rest when
    `go_on` is set.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.given: list[str] = []
        self.ranges: list[str] = []
        self.asked = 0
        self.drop: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self.lie: set[str] = set()
        self.moved: dict[str, str] = {}
        self.held: dict[str, int] = {}
        self.waiting, self.go_on = threading.Event(), threading.Event()
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def forget(self) -> None:
        self.given.clear()
        self.ranges.clear()
        self.asked = 0

    def folder(self, repo: str, revision: str) -> Path | None:
        """The files of a repo at a revision; None where there is no such revision."""
        if revision in ("main", COMMIT):
            return self.root / repo
        old = self.root / f"{repo}@old"
        return old if revision in ("old", OLD) and old.is_dir() else None


@contextmanager
def serving(root: Path) -> Generator[Hub]:
    hub = Hub(root)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


@contextmanager
def asked_here(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    """A server of these repos, and this process's client pointed at it with an empty cache."""
    with serving(root) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(storage_hub, "_opened", {})
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield hub


def _commit_of(folder: Path) -> str:
    return OLD if folder.name.endswith("@old") else COMMIT


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]  whoever made it
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    # ---------------------------------------------------------------------------------------------------- reading
    def _get(self, *, body: bool) -> None:
        self.server.asked += 1
        path = unquote(self.path.partition("?")[0]).strip("/")
        if found := re.fullmatch(r"api/(?:models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?(/.*)?", path):
            repo, kind, revision, below = found[1], found[2], found[3] or "main", (found[4] or "").strip("/")
            if repo in self.server.moved:
                return self._moved(repo)
            if (folder := self._folder(repo, revision)) is None:
                return None
            files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
            if kind == "tree" and "recursive=false" in self.path:
                return self._entries(folder, below)
            if kind == "tree":
                tree = [{"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": "0"} for f in files]
                return self._json(tree)
            siblings = [self._sibling(folder, name) for name in files]
            return self._json(
                {"id": repo, "sha": OLD if folder.name.endswith("@old") else COMMIT, "siblings": siblings}
            )
        if found := re.fullmatch(r"(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = found.groups()
            if repo in self.server.moved:
                return self._moved(repo)
            if repo.endswith("/gated") and not self._let_in:
                return self._fail(403 if "Authorization" in self.headers else 401, "GatedRepo")
            if (folder := self._folder(repo, revision)) is not None:
                self._file(folder, name, body=body)
            return None
        return self._fail(404, "RepoNotFound")

    def _entries(self, folder: Path, below: str) -> None:
        """The files and folders in one folder of a repo, as the file system of the Hub's client asks for them."""
        if not (folder / below).is_dir():
            return self._fail(404, "EntryNotFound")
        entries = sorted((folder / below).iterdir())
        kinds = [{"type": "directory", "size": 0} if e.is_dir() else {"type": "file", "size": e.stat().st_size}
                 for e in entries]  # fmt: skip
        return self._json(
            [{**k, "path": e.relative_to(folder).as_posix(), "oid": "0"} for e, k in zip(entries, kinds, strict=True)]
        )

    def _folder(self, repo: str, revision: str) -> Path | None:
        if not (self.server.root / repo).is_dir():
            return self._fail(404, "RepoNotFound")
        if repo.endswith("/private") and not self._let_in:
            return self._fail(401, "RepoNotFound")
        folder = self.server.folder(repo, revision)
        return self._fail(404, "RevisionNotFound") if folder is None else folder

    @property
    def _let_in(self) -> bool:
        return self.headers.get("Authorization") == "Bearer hf_let_me_in"

    def _moved(self, repo: str) -> None:
        self.send_response(307)
        self.send_header("Location", self.path.replace(repo, self.server.moved[repo], 1))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _sibling(self, folder: Path, name: str) -> dict[str, Any]:
        data = (folder / name).read_bytes()
        told: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": "0"}
        if name.endswith(LARGE):
            digest = hashlib.sha256(b"" if name in self.server.lie else data).hexdigest()
            told["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 1}
        return told

    def _file(self, folder: Path, name: str, *, body: bool) -> None:
        if not (folder / name).is_file():
            return self._fail(404, "EntryNotFound")
        data = whole = (folder / name).read_bytes()
        status, headers = 200, dict[str, str]()
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
            data, status = data[start : end + 1], 206
            headers["Content-Range"] = f"bytes {start}-{end}/{len(whole)}"
        if body:
            (self.server.ranges if status == 206 else self.server.given).append(name)
        if body and (size := self.server.cut.get(name)) is not None:
            data = data[:size]
        headers["X-Repo-Commit"] = _commit_of(folder)
        headers["ETag"] = f'"{hashlib.sha256(whole).hexdigest()}"'
        headers["Accept-Ranges"] = "bytes"
        stop = self.server.drop.pop(name, None) if body else None
        if body and (size := self.server.held.get(name)) is not None and status == 200:
            return self._send(data, "application/octet-stream", status, headers, body=True, pause=size)
        return self._send(data, "application/octet-stream", status, headers, body=body, stop=stop)

    # ---------------------------------------------------------------------------------------------------- writing
    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0]).strip("/")
        if not self._let_in:
            return self._fail(401, "")
        if path == "api/repos/create":
            asked = json.loads(data)
            repo = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            (self.server.root / repo).mkdir(parents=True, exist_ok=True)
            return self._json({"url": f"{self.server.url}/{repo}", "name": repo, "id": repo})
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if found := re.fullmatch(r"api/models/([^/]+/[^/]+)/preupload/[^/]+", path):
            files = json.loads(data)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "oid": None}
                for f in files
            ]
            return self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        if path.endswith(".git/info/lfs/objects/batch"):
            asked = json.loads(data)["objects"]
            made = [
                {**o, "actions": {"upload": {"href": f"{self.server.url}/objects/{o['oid']}", "header": {}}}}
                for o in asked
            ]
            return self._json({"transfer": "basic", "objects": made})
        if found := re.fullmatch(r"api/models/([^/]+/[^/]+)/commit/[^/]+", path):
            self._commit(self.server.root / found[1], [json.loads(line) for line in data.splitlines()])
            url = f"{self.server.url}/{found[1]}/commit/{COMMIT}"
            return self._json({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        return self._fail(404, "")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.objects[self.path.rpartition("/")[2]] = data
        self._json({})

    def _commit(self, folder: Path, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                continue
            data = base64.b64decode(value["content"]) if line["key"] == "file" else self.server.objects[value["oid"]]
            (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / value["path"]).write_bytes(data)

    # ---------------------------------------------------------------------------------------------------- answering
    def _json(self, data: Any) -> None:
        self._send(json.dumps(data).encode(), "application/json", 200, {}, body=True)

    def _send(
        self,
        data: bytes,
        kind: str,
        status: int,
        headers: dict[str, str],
        *,
        body: bool,
        stop: int | None = None,
        pause: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if pause is not None:
            self.wfile.write(data[:pause])
            self.wfile.flush()
            self.server.waiting.set()
            self.server.go_on.wait(20)
            data = data[pause:]
        if body:
            with suppress(OSError):  # the client may have gone
                self.wfile.write(data[:stop])
        if stop is not None:
            self.close_connection = True

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "Content-Length": "0", "X-Error-Message": code}.items():
            self.send_header(name, value)
        self.end_headers()
