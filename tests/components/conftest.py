"""Folders that the tests of this room share."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EMOJI = Path("/work/shared/models/emoji")


@pytest.fixture
def emoji(tmp_path: Path) -> Path:
    """A copy of the embedded model's folder that a test may change."""
    return shutil.copytree(EMOJI, tmp_path / "emoji")


@pytest.fixture
def an_index(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder that holds one index file with these keys."""

    def make(keys: dict[str, Any] | str, file: str = "modular_model_index.json") -> Path:
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(keys if isinstance(keys, str) else json.dumps(keys))
        return folder

    return make
