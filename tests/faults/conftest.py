"""The folders that the fault tests save to."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato.graph.saving import disk


def _flush_nothing(handle: int) -> None:
    pass


def _cannot_exchange(one: Path, other: Path) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to the disk takes most of the time of a small save, and matters for a loss of power alone."""
    monkeypatch.setattr(os, "fsync", _flush_nothing)


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot exchange folders."""
    monkeypatch.setattr(disk, "exchange", _cannot_exchange)


@pytest.fixture(params=["exchanged", "one by one"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How files are put in place: by an exchange of folders, or one by one where the system has no exchange."""
    if request.param == "one by one":
        monkeypatch.setattr(disk, "exchange", _cannot_exchange)
    elif not disk.can_exchange():
        pytest.skip("this system cannot exchange folders")
    return str(request.param)


@pytest.fixture
def part() -> sf.Graph:
    """A pipeline of a text encoder as an object, a tokenizer as files and blocks."""
    pipe = sf.load("emoji", manager=sf.ComponentsManager()).only("positive")
    encoder: Any = pipe.bindings["text_encoder"]
    return pipe.bind(text_encoder=encoder.load())


@pytest.fixture
def saved(part: sf.Graph, tmp_path: Path) -> Callable[[str], Path]:
    """A function that makes a folder with an old save of the pipeline in it, and files of others."""
    whole = tmp_path / "first/mine"
    part.rename("positive", "encode").save_pretrained(whole)
    (whole / "text_encoder/model.fp16.safetensors").write_bytes(b"an earlier variant")
    (whole / "notes").mkdir()
    (whole / "notes/mine.txt").write_text("mine")

    def copy(name: str) -> Path:
        return shutil.copytree(whole, tmp_path / name / "mine")

    return copy
