"""Tables of batches: kinds of files, parts of them, broken rows, paths, and columns."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import sfumato as sf
from sfumato import Graph

from .painting import DRAWN, PAINT, Nothing, Rows
from .painting import nothing_drawn as nothing_drawn


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


def test_a_row_without_a_key_names_the_first_block_that_has_none(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 of 1"):
        made = sf.batch(sf.load("emoji"), [{"prompt": "https://example.com/x", "seed": 1}], tmp_path, progress=False)
    assert "positive: an address, whose contents can change" in made.failures[0].error
    assert "not kept" not in made.failures[0].error


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
    assert f"If the path is yours, pass folders=[{str(tmp_path / 'above.png')!r}] to sf.batch." in errors[1]
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


def test_a_manifest_never_replaces_its_table(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text('{"prompt": "a"}\n')
    with pytest.raises(sf.InputError, match=r"manifest  is the table itself, which would be overwritten\."):
        sf.batch(PAINT, table, tmp_path, manifest="t.jsonl")
    assert table.read_text() == '{"prompt": "a"}\n'


def test_a_graph_without_pictures_and_workers_without_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sf.InputError, match=r"images  is no output of the graph, and a batch writes its pictures\."):
        sf.batch(Graph(none=Nothing()), [{"prompt": "a"}], tmp_path)
    with pytest.raises(
        sf.ConfigError, match=r"workers: needs a number, or the least and the most, at least 1, got 0\."
    ):
        sf.RayCluster(workers=0)
