"""The folders that the fault tests save to."""

import errno
import os
from pathlib import Path

import pytest

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
