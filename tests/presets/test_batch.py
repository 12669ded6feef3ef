"""Batches: each row once and as a call draws it, names made of contents, errors of rows, stops and reruns."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato as sf
from sfumato import BatchRow, Graph
from sfumato.presets.batch.results import Results
from sfumato.presets.batch.table import Row, RowsInMemory
from sfumato.presets.records.keys import pixels_key

from .painting import DRAWN, PAINT, Rows, lines
from .painting import nothing_drawn as nothing_drawn
from .support import counted
from .test_cli import sfumato


# ------------------------------------------------------------------------------------------------ each row once
def test_rows_are_what_calls_draw_and_equal_rows_are_drawn_once(emoji: Graph, tmp_path: Path) -> None:
    few: dict[str, Any] = {"num_inference_steps": 2}
    rows: Rows = [
        {"prompt": "a fox", "seed": 1},
        {"prompt": "a sun", "seed": 2, "scheduler": "euler_a", "num_inference_steps": 3},
        {"prompt": "a fox", "seed": 1, "guider": None},
        {"prompt": ["a cat", "a crown"], "seed": [3, 4], "guider": "none"},
    ]
    with counted(emoji) as did:
        made = sf.batch(emoji, rows, tmp_path, **few)
    assert (made.drawn, made.found, made.failed, did.unet) == (3, 1, 0, 3)
    assert [(row.row, row.did, row.seed, len(row.files)) for row in made] == [
        (1, "drawn", 1, 1), (2, "drawn", 2, 1), (3, "found", 1, 1), (4, "drawn", None, 2),
    ]  # fmt: skip
    for row, values in zip(made, rows, strict=True):
        alone = emoji(**{**few, **{name: value for name, value in values.items() if value is not None}}).images
        for name, one in zip(row.files, alone, strict=True):
            with Image.open(tmp_path / name) as ours:
                apart = np.abs(np.asarray(ours, np.int16) - np.asarray(one, np.int16))
            assert apart.max() <= 1 and (apart > 0).mean() < 0.01
    assert sf.replay(tmp_path / next(iter(made)).files[0]).verdict != "different"
    again = sf.batch(emoji, rows[::-1], tmp_path, **few)
    assert (again.drawn, again.found) == (0, 4)


def test_a_row_that_fails_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a"}, {"prompt": "bad"}, {"prompt": "c", "size": "large"}, {"size": 3}, {"prompt": "e"}]
    with pytest.warns(
        UserWarning, match=r"^3 of 5 rows of the batch failed\. Their errors are in .*manifest\.jsonl\.$"
    ):
        made = sf.batch(PAINT, rows, tmp_path)
    assert (made.drawn, made.failed, len(made)) == (2, 3, 5)
    assert [row.error for row in made] == [
        "",
        "UnfitValue: A bad prompt. It has two lines.",
        "InputError: size takes int, got 'large' (str).",
        "InputError: prompt needs a value: str | Sequence[str], read by paint.prompt.",
        "",
    ]
    assert [row.row for row in made.failures] == [2, 3, 4] == [row.row for row in made if row.did == "failed"]


def test_a_changed_or_missing_file_is_drawn_again(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a", "seed": 1}, {"prompt": "b", "seed": 1}, {"prompt": ["c", "d"], "seed": 1}]
    first = sf.batch(PAINT, rows, tmp_path)
    files = [row.files for row in first]
    (tmp_path / files[0][0]).write_bytes(b"other")
    (tmp_path / files[2][1]).unlink()
    again = sf.batch(PAINT, rows, tmp_path)
    assert [row.did for row in again] == ["drawn", "found", "drawn"]
    (tmp_path / files[1][0]).with_suffix(".json").write_text('{"form": "other", "sha256": []}')
    assert [row.did for row in sf.batch(PAINT, rows, tmp_path)] == ["found", "drawn", "found"]


def test_names_are_made_of_all_that_makes_a_picture_and_its_file(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a", "seed": 1}]

    def key(**more: Any) -> str:
        return next(iter(sf.batch(PAINT, rows, tmp_path, **more))).key

    keys = [key(), key(size=5), key(format="webp"), key(record=False), key(private=["prompt"])]
    assert len({*keys}) == 5
    assert key(size=4) != keys[0]  # a value that is passed is one more input of the record
    assert sorted(path.suffix for path in tmp_path.rglob(f"{keys[2]}*")) == [".json", ".webp"]


def test_a_row_without_a_seed_gets_one_that_its_cells_make(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a"}, {"prompt": "b", "size": 4}, {"size": 4, "prompt": "b"}, {"prompt": "a", "size": 5}]
    seeds = [row.seed for row in sf.batch(PAINT, rows, tmp_path)]
    assert len({*seeds}) == 3 and seeds[1] == seeds[2]
    assert [row.seed for row in sf.batch(PAINT, rows[1:], tmp_path / "b")] == seeds[1:]
    assert {row.seed for row in sf.batch(PAINT, rows, tmp_path / "c", seed=7)} == {7}


# ------------------------------------------------------------------------------------------------ stops
class Watched(RowsInMemory):
    """Rows that are counted when they are read."""

    read = 0

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        for row in super().rows(start, stop):
            self.read += 1
            yield row


def test_rows_are_read_when_they_can_begin(tmp_path: Path) -> None:
    table = Watched([{"prompt": str(number), "seed": 1} for number in range(40)])
    ahead: list[int] = []
    done: list[int] = []

    def on_row(row: BatchRow) -> None:
        done.append(row.row)
        ahead.append(table.read - len(done))

    sf.batch(PAINT, table, tmp_path, at_once=3, on_row=on_row)
    assert len(done) == 40 and max(ahead) <= 2 * 3 + 1  # as many are drawn as wait to be written


def test_ctrl_c_keeps_the_rows_that_have_ended_and_a_rerun_draws_the_others(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": str(number), "seed": 1} for number in range(12)]

    class Stops(Watched):
        def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
            for row in super().rows(start, stop):
                if row.number == 8:
                    raise KeyboardInterrupt
                yield row

    with pytest.raises(KeyboardInterrupt):
        sf.batch(PAINT, Stops(rows), tmp_path, at_once=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sfumato")]
    kept = lines(tmp_path)
    assert [row["row"] for row in kept] == [*range(1, len(kept) + 1)] and 4 <= len(kept) < 8
    drawn = len(DRAWN)
    made = sf.batch(PAINT, rows, tmp_path)
    assert [row.row for row in made] == [*range(1, 13)]
    assert made.found >= len(kept) and len(DRAWN) == drawn + made.drawn


def test_lines_are_whole_while_a_batch_goes_on_and_an_older_manifest_stays(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": str(number), "seed": 1} for number in range(5)]
    sf.batch(PAINT, rows[:2], tmp_path)
    seen: list[tuple[int, int]] = []

    def on_row(row: BatchRow) -> None:
        part = lines(tmp_path, "manifest.jsonl.part")
        assert [one["row"] for one in part] == [*range(1, len(part) + 1)]
        seen.append((len(part), len(lines(tmp_path))))

    sf.batch(PAINT, rows, tmp_path, at_once=1, on_row=on_row)
    assert seen == [(number, 2) for number in range(1, 6)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["manifest.jsonl"]


def test_one_batch_writes_a_manifest_at_a_time(tmp_path: Path) -> None:
    def on_row(row: BatchRow) -> None:
        with pytest.raises(sf.SaveError, match=r"another batch writes this manifest\. Wait for its end"):
            sf.batch(PAINT, [{"prompt": "b"}], tmp_path)
        assert sf.batch(PAINT, [{"prompt": "b"}], tmp_path, manifest="other.jsonl").drawn == 1
        seen.append(row)

    seen: list[BatchRow] = []
    sf.batch(PAINT, [{"prompt": "a"}], tmp_path, on_row=on_row)
    assert len(seen) == 1


def test_the_first_of_two_processes_that_write_one_picture_wins(tmp_path: Path) -> None:
    results, key = Results(tmp_path), "ab" * 16
    first = results.keep(key, [Image.new("RGB", (4, 4), "red")], 1, 0.5)
    assert results.keep(key, [Image.new("RGB", (4, 4), "blue")], 1, 0.7) == first == results.find(key)
    with Image.open(tmp_path / first.files[0]) as picture:
        assert pixels_key(picture) == pixels_key(Image.new("RGB", (4, 4), "red"))


def test_a_folder_that_cannot_be_written_stops_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> Any:
        raise sf.SaveError("the disk is full")

    monkeypatch.setattr(Results, "keep", full)
    with pytest.raises(sf.SaveError, match="the disk is full"):
        sf.batch(PAINT, [{"prompt": str(number)} for number in range(20)], tmp_path, at_once=1)
    assert len(DRAWN) < 20


# ------------------------------------------------------------------------------------------------ the command
def test_the_command_draws_a_table_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("prompt,seed,id\na fox,1,A\na sun,many,B\n")
    few = ("--set", "num_inference_steps=1", "--keep", "id", "-o", "out")
    dry = sfumato("batch", "t.csv", *few, "--dry-run")
    assert dry.code == 1 and dry.out.startswith("out: 2 rows, 1 to draw, 1 failed, ") and not Path("out").exists()
    error = "error: row 2: InputError: seed takes int | Sequence[int] | None, got 'many' (str).\n"
    made = sfumato("batch", "t.csv", *few)
    assert (made.code, made.err) == (1, error)
    assert made.out.startswith("out: 2 rows, 1 drawn, 1 failed, ") and made.out.endswith(". See out/manifest.jsonl.\n")
    Path("t.csv").write_text("prompt,seed,id\na fox,1,A\n")
    again = sfumato("batch", "t.csv", *few, "--json")
    data = json.loads(again.out)
    assert again.code == 0 and (data["drawn"], data["found"], data["failures"]) == (0, 1, [])
    assert [row["id"] for row in lines(Path("out"))] == ["A"]
    unknown = sfumato("batch", "t.csv", "-o", "out")
    assert "id  no such input." in unknown.err and "--keep id" in unknown.err
    assert (
        "--workers x: needs a number, such as 4, or a range, such as 2..8."
        in sfumato("batch", "t.csv", *few, "--ray", "--workers", "x").err
    )
