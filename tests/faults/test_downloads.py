"""A download that a signal ends leaves whole files only, and the next one is right and removes the parts."""

import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download

from sfumato import Access
from sfumato.components.storage.hub import open_repo

from ..components.hub_repos import EMOJI
from ..components.hub_server import asked_here
from .children import Child, ended_at, moments, operations

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are forks")

REPO = "someone/emoji"
FILES = {"text_encoder": ["config.json", "model.safetensors"], "tokenizer": ["vocab.json", "merges.txt"]}
Fetch = Callable[[Path], Callable[[], None]]


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Fetch]:
    """A function that makes a download into a cache, to be run in a child: two processes cannot share connections."""
    assert HfApi and hf_hub_download  # the client imports them when they are read, which takes a child a second
    for folder, names in FILES.items():
        (tmp_path / "hub" / REPO / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(EMOJI / folder / name, tmp_path / "hub" / REPO / folder / name)

    def into(cache: Path) -> Callable[[], None]:
        def run() -> None:
            repo = open_repo(REPO, access=Access(cache_dir=str(cache)))
            for folder, names in FILES.items():
                repo.local(folder, names)

        return run

    with asked_here(tmp_path / "hub", tmp_path / "unused", monkeypatch):
        yield into


def check(cache: Path, *, whole: bool = False) -> None:
    """The files of a cache are those of the repo, byte by byte. `whole`: all are there, and nothing of killed ones."""
    found = {"/".join(path.parts[-2:]): path for path in cache.rglob("snapshots/*/*/*")}
    for name, path in found.items():
        assert path.read_bytes() == (EMOJI / name).read_bytes(), name
    if whole:
        assert found.keys() == {f"{folder}/{name}" for folder, names in FILES.items() for name in names}
        assert [path.name for path in cache.rglob("*") if path.suffix in (".incomplete", ".sfumato-save")] == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_download_leaves_whole_files(fetch: Fetch, how: signal.Signals, tmp_path: Path) -> None:
    count = operations(fetch(tmp_path / "count"), tmp_path)
    assert count > 30
    parts = 0
    for moment in moments(count, 20 if how == signal.SIGKILL else 5):
        cache = tmp_path / f"{moment}"
        ended_at(fetch(cache), moment, tmp_path, how)
        check(cache)
        parts += len(list(cache.rglob("*.incomplete")))
        assert Child(fetch(cache)).end()[0] == 0
        check(cache, whole=True)
    assert parts > 0 or how == signal.SIGTERM


def test_a_download_leaves_whole_files_at_random_times(fetch: Fetch, tmp_path: Path) -> None:
    start = time.monotonic()
    assert Child(fetch(tmp_path / "whole")).end()[0] == 0
    seconds = time.monotonic() - start
    check(tmp_path / "whole", whole=True)
    delays = random.Random(3)
    for number in range(10):
        cache = tmp_path / f"{number}"

        def run(cache: Path = cache, delay: float = delays.uniform(0.01, seconds)) -> None:
            signal.setitimer(signal.ITIMER_REAL, delay)
            fetch(cache)()

        Child(run).end()
        check(cache)
        assert Child(fetch(cache)).end()[0] == 0
        check(cache, whole=True)


def test_parts_of_a_running_download_stay(fetch: Fetch, tmp_path: Path) -> None:
    from filelock import FileLock

    cache = tmp_path / "cache"
    blobs = cache / "models--someone--emoji/blobs"
    locks = cache / ".locks/models--someone--emoji"
    for folder in (blobs, locks):
        folder.mkdir(parents=True)
    for name in ("running.1234abcd", "ended.1234abcd"):
        (blobs / f"{name}.incomplete").write_bytes(b"part")
    with FileLock(locks / "running.lock"):
        assert Child(fetch(cache)).end()[0] == 0
    assert [path.name for path in blobs.glob("*.incomplete")] == ["running.1234abcd.incomplete"]
