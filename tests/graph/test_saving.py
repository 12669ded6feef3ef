"""Saving: what stays, what goes, and folders that others prepared."""

import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sfumato.graph import LoadError, SaveError
from sfumato.graph.saving import disk, exchange, saving_file, saving_folder, undo_interrupted
from sfumato.graph.saving.work import beside, within


def write(folder: Path, /, **files: str) -> None:
    with saving_folder(folder) as draft:
        for name, text in files.items():
            (draft.path / name).write_text(text)


def write_inside(folder: Path, name: str) -> None:
    with saving_folder(folder) as draft:
        (draft.path / name).mkdir()
        (draft.path / name / "b").write_text("2")


def texts(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def working_in(folder: Path) -> Generator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_files_of_others_stay_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "mine/notes").mkdir(parents=True)
    mine = tmp_path / "mine/notes/mine.txt"
    mine.write_text("mine")
    (tmp_path / "mine/notes").chmod(0o700)
    inode = mine.stat().st_ino
    write(tmp_path / "mine", a="1", b="2")
    assert texts(tmp_path / "mine") == {"a": "1", "b": "2", "notes/mine.txt": "mine"}
    assert (mine.stat().st_ino, mine.stat().st_nlink) == (inode, 1)
    assert stat.S_IMODE((tmp_path / "mine/notes").stat().st_mode) == 0o700


def test_a_file_that_is_written_during_the_save_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine", a="1", b="2", log="one line")
    swap = disk.exchange

    def slowly(one: Path, other: Path) -> None:
        (tmp_path / "mine/new.log").write_text("new")
        with (tmp_path / "mine/log").open("a") as file:
            file.write(", another line")
        swap(one, other)

    monkeypatch.setattr(disk, "exchange", slowly)
    write(tmp_path / "mine", a="3", b="4")
    assert texts(tmp_path / "mine") == {"a": "3", "b": "4", "log": "one line, another line", "new.log": "new"}


def test_an_error_in_the_block_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with saving_folder(folder) as draft:
            (draft.path / "a").write_text("half")
            draft.remove("b")
            raise ZeroDivisionError

    write(tmp_path / "mine", a="1", b="2")
    for name in ("mine", "new/er"):
        with pytest.raises(ZeroDivisionError):
            fail(tmp_path / name)
    assert texts(tmp_path) == {"mine/a": "1", "mine/b": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_files_are_removed_unless_they_are_written(tmp_path: Path) -> None:
    write(tmp_path / "mine", a="1", b="2")
    with saving_folder(tmp_path / "mine") as draft:
        for name in ("a", "b", "c"):
            draft.remove(name)
        (draft.path / "a").write_text("3")
    assert texts(tmp_path / "mine") == {"a": "3"}


def test_a_save_into_a_draft_is_part_of_it(tmp_path: Path) -> None:
    with saving_folder(tmp_path / "mine") as draft:
        write(draft.path / "inner", a="1")
        with saving_folder(draft.path / "inner") as inner:
            inner.remove("a")
            (inner.path / "b").write_text("2")
        with saving_file(draft.path / "deep/c") as file:
            file.write_text("3")
        assert not (tmp_path / "mine").exists()
    assert texts(tmp_path / "mine") == {"inner/b": "2", "deep/c": "3"}


@pytest.mark.parametrize("reason", ["the working directory", "many files", "no exchange"])
def test_files_are_replaced_one_by_one_where_folders_cannot_be_exchanged(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine", a="1", b="2", c="3")
    inode = (tmp_path / "mine").stat().st_ino
    if reason == "many files":
        monkeypatch.setattr(exchange, "_MOST_LINKS", 2)
    elif reason == "no exchange":
        monkeypatch.setattr(disk, "can_exchange", lambda: False)
    with working_in(tmp_path / "mine" if reason == "the working directory" else tmp_path):
        write(tmp_path / "mine", a="4", d="5")
    assert texts(tmp_path) == {"mine/a": "4", "mine/b": "2", "mine/c": "3", "mine/d": "5"}
    assert (tmp_path / "mine").stat().st_ino == inode


def test_one_file_is_replaced_without_touching_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "mine", a="1", b="2")
    inodes = [(tmp_path / "mine" / name).stat().st_ino for name in (".", "b")]
    write(tmp_path / "mine", a="3")
    assert [(tmp_path / "mine" / name).stat().st_ino for name in (".", "b")] == inodes
    assert texts(tmp_path) == {"mine/a": "3", "mine/b": "2"}


def test_a_new_file_has_the_permissions_of_the_old_one(tmp_path: Path) -> None:
    for path in (tmp_path / "a.json", tmp_path / "mine/a", tmp_path / "mine/b"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
        path.chmod(0o600)
    with saving_file(tmp_path / "a.json") as draft:
        draft.write_text("2")
    write(tmp_path / "mine", a="2", b="2")
    for path in (tmp_path / "a.json", tmp_path / "mine/a"):
        assert path.read_text() == "2" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_to_a_folder_is_saved_where_it_leads(tmp_path: Path) -> None:
    write(tmp_path / "mine", a="1", b="2")
    (tmp_path / "latest").symlink_to("mine")
    write(tmp_path / "latest", a="3", b="4")
    assert (tmp_path / "latest").is_symlink()
    assert texts(tmp_path / "mine") == {"a": "3", "b": "4"}


def test_a_long_name_is_saved(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255), a="1")
    write(tmp_path / ("n" * 255), a="2", b="3")
    assert texts(tmp_path / ("n" * 255)) == {"a": "2", "b": "3"}
    with pytest.raises(SaveError, match=r"cannot be written \(File name too long\)\. Pass a shorter path\."):
        write(tmp_path / ("n" * 256), a="1")


def test_texts_and_names_that_no_file_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SaveError) as caught:
        write(tmp_path / "mine", a="\ud800")
    assert str(caught.value) == (
        f"{tmp_path}/mine: cannot be written: a text has '\\ud800', which is half of a letter. Write the letter itself."
    )
    with pytest.raises(SaveError, match="has a null character, which no path has"):
        write(tmp_path / "a\0b", a="1")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_replaced_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "mine"
    write(place, a="1")
    (place / "folder").mkdir()
    (place / "link").symlink_to("folder")
    with pytest.raises(SaveError) as caught:
        write(place, folder="1")
    assert (
        str(caught.value) == f"{place}/folder: is a folder, and the save has a file of this name. Pass another folder."
    )
    for name, text in {
        "link": "is a link to a folder, and a save replaces whole folders. Put it there itself.",
        "a": "is a file, and the save has a folder of this name. Pass another folder.",
    }.items():
        with pytest.raises(SaveError) as caught:
            write_inside(place, name)
        assert str(caught.value) == f"{place}/{name}: {text}"
    with pytest.raises(SaveError, match="is a folder, and a file is needed"), saving_file(place):
        pass
    assert texts(tmp_path) == {"mine/a": "1"}


def test_a_log_from_others_is_not_obeyed(tmp_path: Path) -> None:
    """A downloaded folder may have a work folder in it. Reading the folder must not move files."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    write(tmp_path / "mine", a="1", b="2")
    for work in (within(tmp_path / "mine"), beside(tmp_path / "mine")):
        (work.path / "new").mkdir(parents=True)
        for put, target in ((["../secret.txt"], ".."), (["a"], ".."), (["secret.txt"], "../.."), (["a"], "../mine")):
            work.log.write_text(json.dumps({"target": target, "put": put, "made": [], "inode": 7}))
            with pytest.raises(LoadError, match="a save was interrupted, and it cannot be undone"):
                undo_interrupted(tmp_path / "mine")
        work.log.write_text("[" * 100_000)
        with pytest.raises(LoadError, match=r"it was copied, or it is of another program"):
            undo_interrupted(tmp_path / "mine")
        work.log.unlink()
        os.mkfifo(work.log)
        with pytest.raises(LoadError, match=r"it was copied, or it is of another program"):
            undo_interrupted(tmp_path / "mine")
        assert secret.read_text() == "secret" and texts(tmp_path / "mine")["a"] == "1"
        disk.remove(work.path)


def test_all_that_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    work = beside(tmp_path / "mine").path
    (work / "new/unet").mkdir(parents=True)
    for name in ("new/unet/a", "undo.json.draft", "lock"):
        (work / name).write_text("half")
    write(tmp_path / "other", a="1")
    assert texts(tmp_path) == {"other/a": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_work_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "others/new").mkdir(parents=True)
    (tmp_path / "others/new/file").write_text("of others")
    beside(tmp_path / "mine").path.symlink_to("others")
    with pytest.raises(SaveError, match="is a link, and a work folder is needed"):
        write(tmp_path / "mine", a="1")
    assert texts(tmp_path / "others") == {"new/file": "of others"}
