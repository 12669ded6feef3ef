"""Pictures of parquet files, data sets and tar files, and what is wrong with them."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sfumato.graph.errors import LoadError
from sfumato.presets.training.data import Source, TrainingData, load_data

from ...components.hub_server import asked_here


def png(colour: str, size: tuple[int, int] = (4, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def contents(data: TrainingData) -> list[tuple[str, str | None, list[float]]]:
    samples = [s for batch in data.batches(shuffle=False).epoch(0) for s in batch.samples]
    return [(s.name, s.prompt, s.read("pixels")[0, :, 0, 0].tolist()) for s in samples]


RED, BLUE = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]


# ------------------------------------------------------------------------------------------------ tar files
def tar(file: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def test_a_sample_of_a_tar_file_has_one_name_up_to_the_first_dot(tmp_path: Path):
    tar(tmp_path / "0.tar", {"a.png": png("red"), "a.txt": b"a fox", "a.mask.png": png("white")})
    tar(tmp_path / "1.tar", {"sub/b.json": json.dumps({"caption": "an owl"}).encode(), "sub/b.jpeg": png("blue")})
    data = load_data(tmp_path, size=4)
    assert contents(data) == [("0.tar/a", "a fox", RED), ("1.tar/sub/b", "an owl", BLUE)]
    (batch,) = data.batches(2, shuffle=False).epoch(0)
    assert torch.equal(batch.load()["mask"], torch.ones(2, 1, 4, 4))
    assert contents(load_data(tmp_path / "1.tar", size=4)) == [("1.tar/sub/b", "an owl", BLUE)]


def test_the_ends_of_names_in_a_tar_file_can_be_chosen(tmp_path: Path):
    members = {"a.before.png": png("red"), "a.after.png": png("blue"), "a.json": b'{"long": "a fox", "text": "x"}'}
    source = Source(tar(tmp_path / "0.tar", members), image="after.png", control="before.png", text="long")
    data = load_data(source, size=4)
    assert contents(data) == [("0.tar/a", "a fox", BLUE)]
    assert data.batches().epoch(0)[0].load()["control_image"][0, :, 0, 0].tolist() == RED


def test_a_broken_picture_and_a_lone_caption_of_a_tar_file_are_skipped(tmp_path: Path):
    members = {"a.png": png("red"), "a.txt": b"a fox", "b.png": b"nothing", "b.txt": b"x", "c.txt": b"alone"}
    data = load_data(tar(tmp_path / "0.tar", members), size=4)
    assert contents(data) == [("0.tar/a", "a fox", RED)]
    assert [(one.name, one.reason.split(".")[0]) for one in data.skipped] == [
        ("0.tar/c", "is a caption without a picture"),
        ("0.tar/b", "is no picture that can be read"),
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"nothing", "0.tar: is no tar file that can be read (truncated header). Fetch it again."),
        ({"a.png": b"x", "a.json": b"[]"}, "0.tar/a: its JSON needs to be an object with a caption."),
        ({"a.png": b"x", "a.json": b"{"}, "0.tar/a: its caption is not JSON at line 1, column 2: "),
        ({"a.png": b"x", "a.txt": b"\xff\xfe\xfa"}, "0.tar/a: its caption is text in UTF-16. Save it as UTF-8."),
        ({"a.txt": b"x"}, "0.tar: has no picture that can be read. "),
    ],
)
def test_a_wrong_tar_file_is_refused(tmp_path: Path, content: Any, error: str):
    file = tmp_path / "0.tar"
    file.write_bytes(content) if isinstance(content, bytes) else tar(file, content)
    with pytest.raises(LoadError) as caught:
        load_data(file)
    assert error in str(caught.value)


def test_links_in_a_tar_file_are_no_pictures(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(png("red"))
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        archive.addfile(info)
    with pytest.raises(LoadError, match="has no picture that can be read"):
        load_data(tmp_path / "0.tar")


# ------------------------------------------------------------------------------------------------ parquet, data sets
@pytest.fixture
def datasets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:  # a module
    """The package, with a cache of the test."""
    module: Any = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    return module


def parquet(file: Path, columns: dict[str, list[Any]]) -> Path:
    """A table as other programs write it: pictures are bytes, and no column is marked as one of pictures."""
    pyarrow: Any = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    pyarrow.write_table(pa.table(columns), file)
    return file


def cell(colour: str, path: str | None = None) -> dict[str, Any]:
    return {"bytes": png(colour), "path": path}


def test_parquet_files_and_data_sets(datasets: Any, tmp_path: Path):
    columns = {"image": [cell("red", "a.png"), cell("blue", "b.png")], "text": ["a fox", "an owl"]}
    file = parquet(tmp_path / "0.parquet", columns)
    wanted = [("a.png", "a fox", RED), ("b.png", "an owl", BLUE)]
    assert contents(load_data(file, size=4)) == wanted
    assert contents(load_data(tmp_path, size=4)) == wanted
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict(columns, features=features)
    assert contents(load_data(table, size=4)) == wanted
    assert contents(load_data(datasets.DatasetDict(train=table, test=table.select([0])), size=4)) == wanted
    table.save_to_disk(tmp_path / "saved")
    assert contents(load_data(tmp_path / "saved", size=4)) == wanted
    one = Source(datasets.DatasetDict(train=table, test=table.select([0])), split="test")
    assert contents(load_data(one, size=4)) == wanted[:1]


def test_a_column_marked_as_pictures_is_found_whatever_its_name(datasets: Any):
    features = datasets.Features({"drawing": datasets.Image(), "mask": datasets.Image()})
    rows = {"drawing": [cell("red")], "mask": [cell("black")]}
    data = load_data(datasets.Dataset.from_dict(rows, features=features), size=4)
    assert contents(data) == [("the Dataset, row 0", None, RED)]
    assert data.batches().epoch(0)[0].load()["mask"].max() == 0


def test_wrong_tables_are_refused(datasets: Any, tmp_path: Path):
    def refused(data: Any) -> str:
        with pytest.raises(LoadError) as caught:
            load_data(data)
        return str(caught.value)

    table = datasets.Dataset.from_dict({"picture_bytes": [png("red")], "text": ["a fox"]})
    assert refused(table) == (
        "the Dataset: needs a column with pictures, such as 'image', and has 'picture_bytes', 'text'. "
        "Set its name in the Source."
    )
    assert refused(Source(table, image="drawing")) == (
        "the Dataset: needs a column 'drawing' with pictures, and has 'picture_bytes', 'text'."
    )
    assert contents(load_data(Source(table, image="picture_bytes"), size=4))[0][1:] == ("a fox", RED)
    assert refused(table.to_iterable_dataset()) == (
        "An IterableDataset has no order that can be repeated. Load it without streaming=True."
    )
    two = datasets.DatasetDict(a=table, b=table)
    assert refused(two) == "the DatasetDict: has the splits a, b. Set split= of the Source to one of them."
    (tmp_path / "0.parquet").write_bytes(b"nothing")
    assert refused(tmp_path / "0.parquet").startswith(f"{tmp_path}/0.parquet: cannot be read as a table (")
    assert refused(3) == "Needs a folder, a repo, a datasets.Dataset or a list of rows, got int."
    assert refused("there/is/none") == ("there/is/none: there is no such folder or file, and it is no repo of the Hub.")


def test_a_table_names_no_file_outside_its_folder(datasets: Any, tmp_path: Path):
    (tmp_path / "data").mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(png("red"))
    inside = tmp_path / "data" / "a.png"
    inside.write_bytes(png("blue"))
    file = parquet(tmp_path / "data" / "0.parquet", {"image": ["a.png"]})
    assert [one[2] for one in contents(load_data(file, size=4))] == [BLUE]
    parquet(file, {"image": [str(secret)]})
    with pytest.raises(LoadError, match="leads out of the folder"):
        load_data(file)


def test_rows_in_memory_are_pictures_files_or_bytes(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(png("red"))
    rows = [{"image": tmp_path / "a.png"}, {"image": str(tmp_path / "a.png")}, {"image": png("blue")}]
    assert [one[2] for one in contents(load_data(rows, size=4))] == [RED, RED, BLUE]
    with pytest.raises(LoadError, match="the list, row 0: needs a picture, its bytes or its path, got int"):
        load_data([{"image": 3}])
    with pytest.raises(LoadError, match="the list, row 1: has no column 'text'"):
        load_data([{"image": png("red"), "text": "a fox"}, {"image": png("red")}])
    with pytest.raises(LoadError, match="The list of sources is empty"):
        load_data([])


def test_a_repo_of_the_hub(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for split, colour, text in (("train", "red", "a fox"), ("test", "blue", "an owl")):
        folder = tmp_path / "hub" / "someone" / "foxes" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{split}-00000-of-00001.parquet"
        parquet(file, {"image": [cell(colour, f"{split}.png")], "text": [text]})
    with asked_here(tmp_path / "hub", tmp_path / "cache", monkeypatch) as hub:
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        address = hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
        monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", address)
        monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)  # another server, at an address of its own
        assert contents(load_data("someone/foxes", size=4)) == [("train.png", "a fox", RED)]
        owls = Source("someone/foxes", split="test")
        assert contents(load_data(owls, size=4)) == [("test.png", "an owl", BLUE)]
        with pytest.raises(
            LoadError, match=r"someone/none: cannot be read as a table \(Dataset 'someone/none' doesn't"
        ):
            load_data("someone/none")
