"""Repos of the Hub, through the real client, from a small server on this machine."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import sfumato as sf
from sfumato.components.loading.hub import is_repo, patterns

EMOJI = Path(sf.__file__).parent / "presets/embedded/emoji"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the folders of `root` as repos `owner/name`, and remembers which files it gave."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.given: list[str] = []
        self.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as the client asks for."""

    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]  whoever made it
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            owner, name, *_ = path.removeprefix("api/models/").split("/")
            if name == "gated":
                return self._fail(403, "GatedRepo")
            folder = self.server.root / owner / name
            if not folder.is_dir():
                return self._fail(404, "RepoNotFound")
            files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
            listing = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
            if "/tree/" in path:
                tree = [{"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": "0"} for f in files]
                return self._send(json.dumps(tree).encode(), "application/json", body=body)
            return self._send(json.dumps(listing).encode(), "application/json", body=body)
        repo, _, rest = path.partition("/resolve/")
        if repo.endswith("gated"):
            return self._fail(403, "GatedRepo")
        if not (self.server.root / repo).is_dir():
            return self._fail(404, "RepoNotFound")
        file = self.server.root / repo / rest.partition("/")[2]
        if rest.startswith("nosuch"):
            return self._fail(404, "RevisionNotFound")
        if not file.is_file():
            return self._fail(404, "EntryNotFound")
        if body:
            self.server.given.append(str(file.relative_to(self.server.root / repo)))
        return self._send(file.read_bytes(), "application/octet-stream", body=body)

    def _send(self, data: bytes, kind: str, *, body: bool) -> None:
        self.send_response(200)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), "X-Repo-Commit": COMMIT}
        for name, value in {**headers, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "Content-Length": "0", "X-Error-Message": code}.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    repo = root / "someone" / "emoji"
    shutil.copytree(EMOJI, repo)
    (repo / "whole.ckpt").write_bytes(b"a pickle that nobody asked for")
    (repo / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"a variant that nobody asked for")
    (repo / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"another pickle")
    (root / "someone" / "empty").mkdir()
    (root / "someone" / "gated").mkdir()
    server = Hub(root)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def load(hub: Hub | None, repo: str, cache: Path, more: str = "") -> str:
    """What a process says that loads a repo: the client reads HF_ENDPOINT only when it is imported."""
    code = (
        "import sfumato as sf\n"
        f"try:\n    pipe = sf.load({repo!r})\n    {more or 'print(list(pipe.bindings))'}\n"
        "except sf.SfumatoError as error:\n    print(type(error).__name__, error)\n"
    )
    endpoint = hub.url if hub else "http://127.0.0.1:9"
    env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_repo_gives_a_pipeline_and_only_what_it_needs_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    hub.given.clear()
    run = "print(pipe('a red apple', num_inference_steps=1, seed=0).images[0].size)"
    assert load(hub, "someone/emoji", tmp_path, run) == "(64, 64)"
    assert "unet/diffusion_pytorch_model.safetensors" in hub.given
    assert not [f for f in hub.given if f.endswith((".ckpt", ".bin")) or "fp16" in f]
    first = len(hub.given)
    load(hub, "someone/emoji", tmp_path)
    assert len(hub.given) == first
    assert "unet" in load(None, "someone/emoji", tmp_path), "what is in the cache serves where the Hub is not reached"


@pytest.mark.parametrize(
    ("repo", "text"),
    [
        ("someone/nothing", "LoadError someone/nothing: there is no such folder here, and no such repo on the Hub."),
        ("someone/empty", "LoadError someone/empty: the repo has none of modular_model_index.json, model_index.json"),
        ("someone/gated", "LoadError someone/gated: the repo is gated. Ask for access on its page"),
    ],
)
def test_a_repo_that_cannot_be_had_says_why(hub: Hub, tmp_path: Path, repo: str, text: str) -> None:
    assert load(hub, repo, tmp_path).startswith(text)


def test_a_hub_out_of_reach_says_so(tmp_path: Path) -> None:
    assert load(None, "someone/emoji", tmp_path).startswith("LoadError someone/emoji: the Hub cannot be reached")


def test_names_of_repos_and_what_is_fetched() -> None:
    assert is_repo("owner/name.v1-5")
    assert not is_repo("owner/name/more")
    assert patterns(["vae"], "fp16")[-1] == "vae/*.fp16*.safetensors"
