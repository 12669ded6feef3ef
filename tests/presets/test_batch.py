"""Batches: each row once and as a call draws it, names made of contents, errors of rows, stops and reruns."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import sfumato as sf
from sfumato import BatchRow, Block, Graph
from sfumato.presets.batch.results import Results
from sfumato.presets.batch.table import Row, RowsInMemory
from sfumato.presets.records.keys import pixels_key

from .support import counted
from .test_cli import sfumato

Rows = list[dict[str, Any]]


class Drawn(NamedTuple):
    images: list[Image.Image]


DRAWN: list[tuple[Any, ...]] = []
"""The calls of `Paint`; a test clears it first."""


class Paint(Block):
    """A picture of one colour, made of the inputs."""

    random_without = ("seed",)

    def __call__(
        self, prompt: str | Sequence[str], seed: int | None = None, size: int = 4, image: Image.Image | None = None
    ) -> Drawn:
        DRAWN.append((prompt, seed, size))
        if prompt == "bad":
            raise sf.UnfitValue("A bad prompt.\n  It has two lines.")
        colour = (sum(map(ord, str(prompt))) % 256, (seed or 0) % 256, 0 if image is None else image.width)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        return Drawn([Image.new("RGB", (size, size), colour) for _ in prompts])


class Number(NamedTuple):
    number: int


class Nothing(Block):
    def __call__(self, prompt: str) -> Number:
        return Number(len(prompt))


PAINT = Graph(paint=Paint())


@pytest.fixture(autouse=True)
def _nothing_drawn() -> None:  # pyright: ignore[reportUnusedFunction]  a fixture
    DRAWN.clear()


def lines(folder: Path, name: str = "manifest.jsonl") -> Rows:
    """The manifest."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


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


# ------------------------------------------------------------------------------------------------ tables
def test_all_kinds_of_tables_say_the_same(tmp_path: Path) -> None:
    rows: Rows = [
        {"prompt": 'a "fox", red', "seed": 1, "size": None},
        {"prompt": ["a", "b"], "seed": None, "size": 5},
        {"prompt": "two\nlines", "seed": 3, "size": 6},
    ]
    (tmp_path / "t.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "t.csv").write_text(
        '\ufeffprompt,seed,size\n"a ""fox"", red",1,\n\n"[""a"", ""b""]",,5\n"two\nlines",3,6\n', encoding="utf-8"
    )
    plain = [row for row in rows if isinstance(row["prompt"], str)]
    parquet.write_table(pa.Table.from_pylist(plain), tmp_path / "t.parquet")
    tables = [rows, tmp_path / "t.jsonl", str(tmp_path / "t.csv")]
    found = [[(row.key, row.seed) for row in sf.batch(PAINT, one, tmp_path / "out")] for one in tables]
    assert found[0] == found[1] == found[2]
    columns = pa.Table.from_pylist(plain)
    for one in (tmp_path / "t.parquet", columns, columns.to_pandas()):
        made = [(row.key, row.seed) for row in sf.batch(PAINT, one, tmp_path / "out")]
        assert made == [found[0][0], found[0][2]]
    assert len(DRAWN) == 3


def test_any_part_of_a_file_can_be_read(tmp_path: Path) -> None:
    from sfumato.presets.batch.reading import table_of

    rows = [{"prompt": f"row\n{number}" * (1 + number % 3)} for number in range(600)]
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "t.csv").write_text("prompt\n" + "".join(f'"{row["prompt"]}"\n' for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=250)
    for name in ("t.jsonl", "t.csv", "t.parquet"):
        table = table_of(tmp_path / name)
        assert (len(table), list(table.columns)) == (600, ["prompt"])
        for start, stop in ((0, 3), (254, 259), (511, 513), (599, 700), (600, 700)):
            part = list(table.rows(start, stop))
            assert [row.number for row in part] == [*range(start + 1, min(stop, 600) + 1)]
            assert [dict(row.cells) for row in part] == rows[start:stop]


def test_pictures_are_files_beside_the_table_or_in_folders_of_the_caller(tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    Image.new("RGB", (9, 9)).save(mine / "in.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "above.png")
    cells = ["in.png", "../above.png", str(tmp_path / "above.png"), "none.png", "https://example.com/x.png"]
    (mine / "t.csv").write_text("prompt,seed,image\n" + "".join(f"a,1,{cell}\n" for cell in cells))
    with pytest.warns(UserWarning, match="4 of 5"):
        made = sf.batch(PAINT, mine / "t.csv", out)
    errors = [row.error for row in made]
    assert errors[0] == "" and "leads out of the folder" in errors[1] and "leads out of the folder" in errors[2]
    assert errors[3].startswith("PictureError: ") and "leads out of the folder" in errors[4]
    with pytest.warns(UserWarning, match="2 of 5"):
        made = sf.batch(PAINT, mine / "t.csv", out, folders=[tmp_path])
    assert [row.did for row in made] == ["found", "drawn", "found", "failed", "failed"]
    data = (mine / "in.png").read_bytes()
    parquet.write_table(
        pa.Table.from_pylist([{"prompt": "a", "seed": 1, "image": {"bytes": data, "path": None}}]), mine / "t.parquet"
    )
    assert [row.did for row in sf.batch(PAINT, mine / "t.parquet", out)] == ["found"]


def test_lines_that_cannot_be_read_are_the_errors_of_their_rows(tmp_path: Path) -> None:
    good = b'{"prompt": "a"}'
    wrong = [
        b'{"prompt": "a"',
        b'["a"]',
        b'{"prompt": "\xff"}',
        b'{"prompt": "' + b"a" * 2**20 + b'"}',
        b'{"seed": NaN}',
    ]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join([*wrong, good]))
    with pytest.warns(UserWarning, match="5 of 6"):
        errors = [row.error for row in sf.batch(PAINT, tmp_path / "t.jsonl", tmp_path / "out")]
    assert errors[0].startswith("LoadError: The row is not JSON at line 1, column 15")
    assert errors[1] == 'LoadError: The row is list, and a JSON object is needed. Write a row as {"prompt": "a fox"}.'
    assert errors[2].startswith("LoadError: The row is no text in UTF-8 (invalid start byte at byte 12).")
    assert errors[3].startswith("LoadError: The row has 1,048,591 bytes in a row, and the limit is 1,048,576")
    assert errors[4].startswith("LoadError: The row has NaN, which is not JSON.")
    assert errors[5] == ""
    (tmp_path / "t.csv").write_bytes(b'prompt,seed\na,1,2\n"b"c,1\n\xff,1\nd,1\n')
    with pytest.warns(UserWarning, match="3 of 4"):
        errors = [row.error for row in sf.batch(PAINT, tmp_path / "t.csv", tmp_path / "out")]
    assert errors[0] == "LoadError: The row has 3 cells, and the header has 2."
    assert errors[1].startswith("LoadError: The row is no CSV (")
    assert errors[2].startswith("LoadError: The row is no text in UTF-8") and errors[3] == ""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("none.jsonl", r"none.jsonl: there is no such file. Pass a table: .jsonl, .csv, .tsv or .parquet."),
        ("t.txt", r"t.txt: .txt is no kind of table. Use .jsonl, .csv, .tsv or .parquet."),
        ("empty.csv", r"empty.csv: has no names of columns in its first row."),
        ("twice.csv", r"twice.csv: has the column 'seed' twice. Rename one of them."),
        ("t.parquet", r"t.parquet: cannot be read as a parquet file (Parquet magic bytes not found"),
        ("wide.csv", r"wide.csv: has 1,001 columns, and the limit is 1,000"),
        (3, "table  needs a file, a list of dicts, or a table of pandas, pyarrow or datasets, got int."),
    ],
)
def test_what_is_no_table_is_refused(data: Any, text: str, tmp_path: Path) -> None:
    for name, content in {
        "t.txt": "prompt", "empty.csv": "\n", "twice.csv": "seed,seed\n", "t.parquet": "prompt,seed,steps",
        "wide.csv": ",".join(f"c{number}" for number in range(1001)),
    }.items():  # fmt: skip
        (tmp_path / name).write_text(content)
    with pytest.raises((sf.LoadError, sf.InputError)) as error:
        sf.batch(PAINT, tmp_path / data if isinstance(data, str) else data, tmp_path / "out")
    assert text in str(error.value)


# ------------------------------------------------------------------------------------------------ columns
def test_an_unknown_column_is_refused_before_anything_runs(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a"}, {"prompt": "b", "sise": 3, "id": 1}]
    with pytest.raises(sf.InputError) as error:
        sf.batch(PAINT, rows, tmp_path / "out", keep=["ids"])
    assert [problem.place for problem in error.value.problems] == ["ids", "sise", "id"]
    assert "is no column of the table. Did you mean 'id'?" in str(error.value)
    assert "no such input. Did you mean 'size'?" in str(error.value)
    assert "If it is for the manifest alone, name it: keep=['sise'], or --keep sise." in str(error.value)
    assert not DRAWN and not (tmp_path / "out").exists()


def test_columns_that_are_kept_go_into_the_manifest_alone(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a", "seed": 1, "id": "A-1"}, {"prompt": "a", "seed": 1, "id": "A-2"}]
    made = sf.batch(PAINT, rows, tmp_path, keep=["id"], manifest="m.parquet")
    assert [(row.did, row.kept) for row in made] == [("drawn", {"id": "A-1"}), ("found", {"id": "A-2"})]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["m.parquet"]


def test_a_column_may_be_an_input_that_a_slot_of_the_row_brings(emoji: Graph, tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "a", "guider": "apg", "eta": 0.5}, {"prompt": "b", "guider": "cfg:guidance_scale=3"}]
    made = sf.batch(emoji, rows, tmp_path, dry_run=True)
    assert (made.drawn, made.failed) == (2, 0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"at_once": 0}, "at_once  needs a number of runs, at least 1, got 0."),
        ({"format": "pgn"}, "format  is no format of pictures. Did you mean 'png'?"),
        ({"manifest": "m.csv"}, "manifest  needs the suffix .jsonl or .parquet, got .csv."),
        ({"keep": "id"}, "keep  needs a list of columns, got a text. Write keep=['id']."),
        ({"keep": ["row"]}, "keep  'row' is a column of each manifest. Rename that column of the table."),
        ({"engine": "dask"}, "engine  needs 'local', 'ray' or an sf.RayCluster, got 'dask'."),
        ({"sise": 3}, "sise  no such input. Did you mean 'size'?"),
    ],
)
def test_settings_that_are_wrong_are_refused(settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(sf.InputError) as error:
        sf.batch(PAINT, [{"prompt": "a"}], tmp_path / "out", **settings)
    assert text in str(error.value)


def test_a_graph_without_pictures_and_workers_without_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sf.InputError, match=r"images  is no output of the graph, and a batch writes its pictures\."):
        sf.batch(Graph(none=Nothing()), [{"prompt": "a"}], tmp_path)
    with pytest.raises(
        sf.ConfigError, match=r"workers: needs a number, or the least and the most, at least 1, got 0\."
    ):
        sf.RayCluster(workers=0)


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
