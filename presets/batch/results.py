"""The results of a batch: picture files under names made from content keys, and a small file that says they are whole.

FOLDER/ab/ab12….json      seed, seconds, and the sha256 of each picture; written last
FOLDER/ab/ab12….png       the first picture
FOLDER/ab/ab12…-2.png     the second
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...graph.json_text import JsonTextError, read
from ...graph.saving import saving_file
from ..records.files import write_picture

_FORM = "sfumato batch 1"


@dataclass(frozen=True)
class Result:
    """The pictures of one key. files: their paths in the folder. seconds: how long the run took."""

    files: tuple[str, ...]
    seed: int | None
    seconds: float


@dataclass(frozen=True)
class Results:
    """The results in a folder, which several processes may share.

    suffix: of picture files. record: whether they get the record of their run, without the `private` inputs.
    """

    folder: Path
    suffix: str = ".png"
    record: bool = True
    private: tuple[str, ...] = ()

    @property
    def written(self) -> tuple[str, ...]:
        """How files are written, for their keys."""
        return self.suffix, str(self.record), *sorted(self.private)

    def find(self, key: str) -> Result | None:
        """The result of a key, if all of its files are whole; else None."""
        try:
            data = read(self._note(key), "config_bytes")
            sums = [str(one) for one in data["sha256"]]
            files = tuple(self._name(key, number) for number in range(1, len(sums) + 1))
            if data["form"] != _FORM or not sums:
                return None
            if any(_sha256(self.folder / name) != one for name, one in zip(files, sums, strict=True)):
                return None
            return Result(files, data["seed"], float(data["seconds"]))
        except (OSError, JsonTextError, KeyError, TypeError, ValueError):
            return None

    def keep(self, key: str, pictures: Sequence[Any], seed: int | None, seconds: float) -> Result:  # PIL images
        """Write the pictures of a key, unless another process has written them. SaveError if that is not possible."""
        note = self._note(key)
        with saving_file(note) as draft:  # one process writes the files of a key at a time
            if (found := self.find(key)) is None:
                files = tuple(self._name(key, number) for number in range(1, len(pictures) + 1))
                for picture, name in zip(pictures, files, strict=True):
                    write_picture(picture, self.folder / name, record=self.record, private=self.private)
                found = Result(files, seed, seconds)
            sums = [_sha256(self.folder / name) for name in found.files]
            data: Mapping[str, Any] = {
                "form": _FORM, "seed": found.seed, "seconds": round(found.seconds, 3), "sha256": sums,
            }  # fmt: skip
            draft.write_text(json.dumps(data), encoding="utf-8")
        return found

    def _note(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def _name(self, key: str, number: int) -> str:
        return f"{key[:2]}/{key}{f'-{number}' if number > 1 else ''}{self.suffix}"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
