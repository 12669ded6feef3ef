"""A save that a signal ends leaves the old folder or the new one, and the next save clears up."""

import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato.graph.saving import saving_file, saving_folder, undo_interrupted, work

from .children import Child, ended_at, left_overs, moments, operations, refused, state

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are forks")


def check(before: Any, folder: Path, after: Any, by: str) -> None:
    """The folder is the old one or the new one, for every reader; for readers of this library if `by` one by one."""
    if by == "one by one":
        undo_interrupted(folder)
    found = state(folder)
    assert found in (before, after), f"a mixture: {sorted(found or {})}"


# ---------------------------------------------------------------------------------------------------- a small folder
def old_folder(folder: Path) -> None:
    """A save, and files of others."""
    for name in ("unet/config.json", "unet/a.safetensors", "vae/config.json", "index.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"old {name}")
    (folder / ".git/objects").mkdir(parents=True)
    (folder / ".git/objects/0a").write_text("of others")
    (folder / "README.md").write_text("mine")
    (folder / "latest").symlink_to("unet")


def new_save(folder: Path) -> None:
    with saving_folder(folder) as draft:
        for name in ("unet/config.json", "unet/b.safetensors", "scheduler/config.json", "index.json"):
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            (draft.path / name).write_text(f"new {name}")
        draft.remove("unet/a.safetensors")


def made(folder: Path, *, old: bool = True) -> Path:
    if old:
        old_folder(folder)
    return folder


@pytest.mark.parametrize("old", [True, False], ids=["over an old folder", "new"])
def test_every_operation_of_a_save_may_be_the_last(by: str, old: bool, tmp_path: Path) -> None:
    new_save(made(tmp_path / "whole/mine", old=old))
    after = state(tmp_path / "whole/mine")
    count = operations(lambda: new_save(made(tmp_path / "count/mine", old=old)), tmp_path)
    assert 20 < count < 400
    for moment in moments(count):
        folder = made(tmp_path / str(moment) / "mine", old=old)
        before = state(folder)
        ended_at(lambda folder=folder: new_save(folder), moment, folder.parent)
        check(before, folder, after, by)
        new_save(folder)
        assert state(folder) == after
        assert left_overs(folder) == []
        shutil.rmtree(folder.parent)


def test_undoing_may_be_interrupted_too(no_exchange: None, tmp_path: Path) -> None:
    count = operations(lambda: new_save(made(tmp_path / "count/mine")), tmp_path)
    new_save(made(tmp_path / "whole/mine"))
    after = state(tmp_path / "whole/mine")
    for moment in moments(count, 12):
        folder = made(tmp_path / str(moment) / "mine")
        before = state(folder)
        ended_at(lambda folder=folder: new_save(folder), moment, folder.parent)
        for again in (3, 6, 12):
            ended_at(lambda folder=folder: undo_interrupted(folder), again, folder.parent)
        check(before, folder, after, "one by one")


def test_every_operation_of_a_file_may_be_the_last(tmp_path: Path) -> None:
    file = tmp_path / "apple.png"
    file.write_bytes(b"old")

    def save() -> None:
        with saving_file(file) as draft:
            draft.write_bytes(b"new")

    count = operations(save, tmp_path)
    for moment in range(1, count + 1):
        file.write_bytes(b"old")
        ended_at(save, moment, tmp_path)
        assert file.read_bytes() in (b"old", b"new")
        with saving_file(tmp_path / "pear.png") as draft:  # another file of the folder
            draft.write_bytes(b"pear")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["apple.png", "pear.png"]


# ---------------------------------------------------------------------------------------------------- a pipeline
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_pipeline_is_saved_whole_or_not_at_all(
    part: sf.Graph, saved: Callable[[str], Path], by: str, how: signal.Signals, tmp_path: Path
) -> None:
    before = state(saved("before"))
    part.save_pretrained(saved("after"))
    after = state(tmp_path / "after/mine")
    assert after is not None and before is not None and before != after
    assert "notes/mine.txt" in after and "text_encoder/model.fp16.safetensors" not in after
    count = operations(lambda: part.save_pretrained(saved("count")), tmp_path / "count")
    for moment in moments(count, 15 if how == signal.SIGKILL else 5):
        folder = saved(f"{moment}")
        ended_at(lambda folder=folder: part.save_pretrained(folder), moment, folder.parent, how)
        check(before, folder, after, by)
        part.save_pretrained(folder)
        assert state(folder) == after
        assert left_overs(folder) == []
        shutil.rmtree(folder.parent)


def test_a_pipeline_is_saved_whole_or_not_at_all_at_random_times(
    part: sf.Graph, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    before = state(saved("before"))
    start = time.monotonic()
    part.save_pretrained(saved("after"))
    seconds = time.monotonic() - start
    after = state(tmp_path / "after/mine")
    delays = random.Random(7)
    for number in range(10):
        folder = saved(f"{number}")

        def run(folder: Path = folder, delay: float = delays.uniform(0.001, seconds)) -> None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, delay)  # the signal ends the child wherever it is
            part.save_pretrained(folder)

        Child(run).end()
        assert state(folder) in (before, after)
        part.save_pretrained(folder)
        assert state(folder) == after
        assert left_overs(folder) == []


def test_two_processes_save_to_one_folder_after_each_other(part: sf.Graph, by: str, tmp_path: Path) -> None:
    graphs = [part, part.rename("positive", "encode")]
    wanted: list[Any] = []
    for number, graph in enumerate(graphs):
        graph.save_pretrained(tmp_path / f"{number}/mine")
        wanted.append(state(tmp_path / f"{number}/mine"))
    folder = tmp_path / "both/mine"

    def save(graph: sf.Graph) -> None:
        for _ in range(4):
            graph.save_pretrained(folder)

    children = [Child(lambda graph=graph: save(graph)) for graph in graphs]
    assert [child.end()[0] for child in children] == [0, 0]
    assert state(folder) in wanted
    assert left_overs(folder) == []


def test_a_save_waits_for_another_one_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "WAIT_SECONDS", 0.2)
    with saving_folder(tmp_path / "mine") as draft:
        (draft.path / "a.json").write_text("1")
        status, text = Child(lambda: refused(lambda: new_save(tmp_path / "mine"))).end()
    assert status == 0
    assert text == (
        f"{tmp_path}/mine: another process or thread is saving there, and has not ended in 0.2 seconds. Save again "
        f"after it ends, or pass another path. Its work folder is {tmp_path}/.mine.sfumato-save."
    )
    assert state(tmp_path / "mine") == {"a.json": b"1"}
