"""Saves on disks and in processes that have too little: the old folder or the new one, and a SaveError."""

import ctypes
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato.graph.saving import saving_file, undo_interrupted

from .children import Child, left_overs, refused, state

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts and limits are those of Linux")

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER: linux/sched.h
_PRIVATE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE: linux/mount.h
_NOBODY = 65534


def mount_small_disk(folder: Path, megabytes: int = 24) -> str:
    """Mount a small disk in memory, which only this process sees. Gives why it cannot be; "" if it is there."""
    library: Any = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if library.unshare(_NEW_MOUNTS | (0 if uid == 0 else _NEW_USER)) != 0:
        return f"a namespace of mounts is refused: {os.strerror(ctypes.get_errno())}"
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    if library.mount(b"none", b"/", None, _PRIVATE, None) != 0:
        return f"mounts cannot be made private: {os.strerror(ctypes.get_errno())}"
    if library.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={megabytes}m".encode()) != 0:
        return f"mounting is refused: {os.strerror(ctypes.get_errno())}"
    return ""


@pytest.mark.parametrize("target", ["mine", "."], ids=["a folder of the disk", "the disk itself"])
def test_a_disk_that_is_filled_to_ten_levels(
    part: sf.Graph, saved: Callable[[str], Path], target: str, tmp_path: Path
) -> None:
    old = saved("small")
    before = state(old)
    disk = tmp_path / "disk"
    disk.mkdir()

    def run() -> dict[str, str]:
        if reason := mount_small_disk(disk):
            return {"skipped": reason}
        folder = disk / target
        shutil.copytree(old, folder, dirs_exist_ok=True)
        told: dict[str, str] = {}
        for free in (0, 1, 2, 8, 32, 128, 512, 1024, 1400, 8192):
            fill(disk, free)
            try:
                part.save_pretrained(folder)
                told[str(free)] = ""
            except sf.SaveError as error:
                told[str(free)] = str(error)
            undo_interrupted(folder)
            (disk / "filling").unlink()
            found = state(folder)
            assert told[str(free)] == "" or found == before, (free, told)
            assert left_overs(disk / "x") == []
        part.save_pretrained(folder)
        assert state(folder) != before
        return told

    status, told = Child(run).end()
    assert status == 0
    if "skipped" in told:
        pytest.skip(told["skipped"])
    full = [text for text in told.values() if text]
    assert 3 <= len(full) < 10, told
    assert all(text.endswith("Make room, or pass a path on another disk.") for text in full), full
    assert all(text.startswith(str(disk)) for text in full), full


def fill(disk: Path, free: int) -> None:
    """Fill a disk until this many kilobytes are free."""
    size = shutil.disk_usage(disk).free - free * 1024
    with (disk / "filling").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))


# ---------------------------------------------------------------------------------------------------- permissions
@pytest.fixture
def owned() -> Generator[Path]:
    """A folder of a user without rights: this one, or nobody for root."""
    place = Path(tempfile.mkdtemp(prefix="sfumato-faults-"))
    try:
        yield place
    finally:
        for path in [place, *place.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(place)


def as_nobody(place: Path, do: Callable[[], Any]) -> Any:
    """Run a function in a child that is not root, which owns the folder."""
    if os.geteuid() == 0:
        for path in [place, *place.rglob("*")]:
            os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)

    def run() -> Any:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        return do()

    status, result = Child(run).end()
    assert status == 0
    return result


@pytest.mark.parametrize("locked", [".", "text_encoder", "tokenizer"])
def test_a_read_only_folder_is_refused_and_unchanged(
    part: sf.Graph, saved: Callable[[str], Path], owned: Path, locked: str
) -> None:
    folder = shutil.copytree(saved("old"), owned / "mine")
    before = state(folder)
    (folder / locked).chmod(0o555)
    text = as_nobody(owned, lambda: refused(lambda: part.save_pretrained(folder)))
    assert text == (
        f"{folder / locked}: cannot be written (Permission denied). Change the permissions, or pass a path that you "
        "may write to."
    )
    assert state(folder) == before
    assert left_overs(folder) == []
    (folder / locked).chmod(0o755)
    as_nobody(owned, lambda: str(part.save_pretrained(folder)))
    assert state(folder) != before
    assert left_overs(folder) == []


def test_a_folder_below_a_read_only_one_is_saved(
    part: sf.Graph, saved: Callable[[str], Path], owned: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved("old"), owned / "mine")
    part.save_pretrained(saved("after"))
    owned.chmod(0o555)
    as_nobody(owned, lambda: str(part.save_pretrained(folder)))
    assert state(folder) == state(tmp_path / "after/mine")
    assert left_overs(folder) == []


def test_read_only_files_of_others_stay_and_those_of_the_save_are_replaced(
    part: sf.Graph, saved: Callable[[str], Path], owned: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved("old"), owned / "mine")
    part.save_pretrained(saved("after"))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o444)
    (folder / "notes").chmod(0o555)
    as_nobody(owned, lambda: str(part.save_pretrained(folder)))
    assert state(folder) == state(tmp_path / "after/mine")
    assert (folder / "notes").stat().st_mode & 0o777 == 0o555
    assert (folder / "graph.json").stat().st_mode & 0o777 == 0o444
    assert left_overs(folder) == []


# ---------------------------------------------------------------------------------------------------- limits
def test_a_limit_on_the_size_of_files(part: sf.Graph, saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved("old")
    before = state(folder)
    for limit in (0, 100, 5_000, 100_000, 500_000):

        def run(limit: int = limit) -> str:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return refused(lambda: part.save_pretrained(folder))

        status, text = Child(run).end()
        if limit >= 100:  # with none at all, the child cannot tell either
            assert status == 0
            assert text.startswith(f"{folder}") and "File too large" in text, text
            assert text.endswith("Raise the limit of this process (ulimit -f), or pass a path on another disk."), text
        assert state(folder) == before
        assert left_overs(folder) == []
    part.save_pretrained(folder)
    assert state(folder) != before


def test_a_limit_on_the_memory(part: sf.Graph, saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved("old")
    before = state(folder)
    part.save_pretrained(saved("after"))
    after = state(tmp_path / "after/mine")
    texts: list[str] = []
    for more in (0, 100_000, 400_000, 1_000_000, 4_000_000):

        def run(more: int = more) -> str:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))
            try:
                part.save_pretrained(folder)
            except sf.SfumatoError as error:
                return str(error)
            return ""

        status, text = Child(run).end()
        assert status in (0, -signal.SIGABRT)  # a library may end the process instead of raising
        texts.append(text or "")
        assert state(folder) in (before, after)
    assert all("cannot be written, since the memory is exhausted. Free memory" in text for text in texts if text)
    part.save_pretrained(folder)
    assert state(folder) == after
    assert left_overs(folder) == []


def test_a_picture_on_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def run() -> dict[str, str]:
        if reason := mount_small_disk(disk, 1):
            return {"skipped": reason}
        (disk / "apple.png").write_bytes(b"old")
        fill(disk, 8)

        def save() -> None:
            with saving_file(disk / "apple.png") as draft:
                draft.write_bytes(bytes(100_000))

        text = refused(save)
        assert sorted(path.name for path in disk.iterdir()) == ["apple.png", "filling"]
        return {"text": text, "bytes": (disk / "apple.png").read_text()}

    status, told = Child(run).end()
    assert status == 0
    if "skipped" in told:
        pytest.skip(told["skipped"])
    assert told == {
        "text": f"{disk}/apple.png: cannot be written (No space left on device). Make room, or pass a path on another "
        "disk.",
        "bytes": "old",
    }
