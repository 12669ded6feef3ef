"""Files that name paths: each may lead only inside its own folder, or into folders that the program names."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import sfumato as sf
from sfumato.components.loading.index import MODULAR, read_index
from sfumato.components.storage.location import Folder
from sfumato.graph.files.inside import path_inside
from sfumato.presets.cli.app import app
from sfumato.presets.names import EMBEDDED

SPEC = {"pretrained_model_name_or_path": "", "revision": None, "subfolder": "", "variant": None}


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A tokenizer of this machine that no file may name."""
    folder = shutil.copytree(EMBEDDED / "emoji" / "tokenizer", tmp_path / "private" / "tokenizer")
    (folder / "passwords.txt").write_text("hunter2")
    return folder.parent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that was downloaded."""
    return shutil.copytree(EMBEDDED / "emoji", tmp_path / "downloads" / "theirs")


def spellings(private: Path, place: Path) -> dict[str, str]:
    """Ways to name the private folder from `place`."""
    (place / "link").symlink_to(private)
    (place / "deep").mkdir()
    (place / "deep" / "link").symlink_to("../link")
    (place / "loop").symlink_to("loop")
    up = os.path.relpath(private, place)
    return {
        "absolute": str(private),
        "absolute with dots": f"{place}/unet/../{up}",
        "two slashes": f"/{private}",
        "relative": up,
        "relative with a dot": f"./{up}",
        "through a folder": f"unet/../{up}",
        "a link": "link",
        "a link with a dot": "./link",
        "two links": "./deep/link",
        "into a link": "./link/tokenizer",
        "a loop": "loop",
        "the home folder": "~",
        "a home folder": "~root/x",
        "an address": f"file://{private}",
        "an address of an open server": "https://example.com/x",
        "a drive": "C:\\Users",
        "a drive with slashes": "C:/Users",
        "a relative drive": "C:x",
        "a server": "\\\\server\\share",
        "backslashes": up.replace("/", "\\"),
        "a null byte": f"unet\0{private}",
        "a line": "unet\n/etc",
        "too long": "x" * 5000,
        "the root": "/",
        "proc": "/proc/self/cwd",
        "the parent": "..",
        "the parent with a dot": "./..",
    }


NAMES = [
    "absolute", "absolute with dots", "two slashes", "relative", "relative with a dot", "through a folder", "a link",
    "a link with a dot", "two links", "into a link", "a loop", "the home folder", "a home folder", "an address",
    "an address of an open server", "a drive", "a drive with slashes", "a relative drive", "a server", "backslashes",
    "a null byte", "a line", "too long", "the root", "proc", "the parent", "the parent with a dot",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_a_file_leads_only_inside_its_folder(name: str, private: Path, place: Path) -> None:
    text = spellings(private, place)[name]
    with pytest.raises(sf.LoadError, match=r"leads out of the folder|cannot be followed|needs the path of"):
        path_inside(text, place)


def test_all_spellings_are_tested(private: Path, place: Path) -> None:
    assert sorted(spellings(private, place)) == sorted(NAMES)


@pytest.mark.parametrize("text", ["unet", "./unet", ".", "unet/", "no/such", "a b", "été", "..x", "x..", "%2e%2e"])
def test_paths_inside_are_absolute(text: str, place: Path) -> None:
    assert path_inside(text, place) == Path(os.path.abspath(place / text))
    assert path_inside(str(place / text), place) == Path(os.path.abspath(place / text))


def graph_with(place: Path, **entry: object) -> Path:
    """A saved graph whose tokenizer has this entry."""
    sf.load("emoji").save(place)
    data = json.loads((place / "graph.json").read_text())
    old = data["graph"]["components"]["tokenizer"]
    data["graph"]["components"]["tokenizer"] = {**SPEC, "type_hint": old["type_hint"], **entry}
    (place / "graph.json").write_text(json.dumps(data))
    return place


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_file_names_only_its_own_folder(
    name: str, private: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = spellings(private, place)[name]
    graph_with(place, pretrained_model_name_or_path=text, subfolder="tokenizer")
    monkeypatch.chdir(private)
    for read in (sf.load, sf.Graph.load):
        with pytest.raises(sf.GraphFileError, match=r"graph\.components\.tokenizer"):
            read(place)
    with pytest.raises(sf.GraphFileError):
        sf.inspect(place / "graph.json")


@pytest.mark.parametrize("name", NAMES)
def test_a_local_index_names_only_its_own_folder(
    name: str, private: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = spellings(private, place)[name]
    shutil.rmtree(place / "tokenizer")
    index_with(place, pretrained_model_name_or_path=text, subfolder="tokenizer")
    monkeypatch.chdir(private)
    with pytest.raises(sf.LoadError):
        used(place)


@pytest.mark.parametrize("name", ["private/keys", "private", "./private/keys", "tokenizer", "keys.safetensors"])
def test_names_in_files_are_not_looked_for_in_the_working_folder(
    name: str, private: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`owner/name` is a repo, whatever the working folder has; other names are inside the file's folder."""
    for folder in ("private/keys", "private"):
        shutil.copytree(private / "tokenizer", private / folder, dirs_exist_ok=True)
    (private / "keys.safetensors").write_bytes(b"private")
    shutil.rmtree(place / "tokenizer")
    monkeypatch.chdir(private)
    index_with(place, pretrained_model_name_or_path=name)
    with pytest.raises(sf.LoadError) as caught:
        used(place, access=sf.Access(local_files_only=True))
    assert "passwords" not in str(caught.value)
    spec = sf.ComponentSpec.from_json({**SPEC, "pretrained_model_name_or_path": name}, of_file=True)
    for one in (spec, spec.using(dtype="float16"), spec.using(subfolder="x")):
        assert one.pretrained_model_name_or_path == name and one.file is None


def index_with(place: Path, **entry: object) -> None:
    data = json.loads((place / "model_index.json").read_text())
    modular = {name: [*value, {**SPEC, "type_hint": value, "subfolder": name}] if isinstance(value, list) else value
               for name, value in data.items()}  # fmt: skip
    hint = data["tokenizer"]
    modular["tokenizer"] = [*hint, {**SPEC, "type_hint": hint, **entry}]
    (place / MODULAR).write_text(json.dumps(modular))


def used(folder: Path, **more: Any) -> None:
    pipe = sf.load(folder, **more)
    if problems := pipe.check():
        raise sf.LoadError("; ".join(problem.message for problem in problems))
    for value in pipe.bindings.values():
        value.ready()


def test_a_program_may_allow_folders(private: Path, place: Path) -> None:
    access = sf.Access(folders=[private])
    graph_with(place, pretrained_model_name_or_path=str(private), subfolder="tokenizer")
    pipe = sf.load(place, access=access)
    assert pipe.bindings["tokenizer"].spec.folder == private / "tokenizer"
    assert len(pipe.bindings["tokenizer"].load()) > 100
    with pytest.raises(sf.GraphFileError, match="leads out"):
        sf.load(place, access=sf.Access(folders=[private / "tokenizer"]))
    (place / "graph.json").unlink()
    shutil.rmtree(place / "tokenizer")
    index_with(place, pretrained_model_name_or_path=str(private), subfolder="tokenizer")
    used(place, access=access)
    text = rf"tokenizer: '{private}' leads out of the folder {place}.*sf\.Access\(folders=\['{private}'\]\)"
    with pytest.raises(sf.LoadError, match=text):
        read_index(place)


def test_links_that_lead_out_of_a_folder_are_not_followed(private: Path, place: Path) -> None:
    for name in ("config.json", "vocab.json"):
        (place / name).symlink_to(private / "passwords.txt")
        with pytest.raises(sf.LoadError, match="is a link that leads out"):
            Folder(place).local("", [name])
    shutil.rmtree(place / "tokenizer")
    (place / "tokenizer").symlink_to(private / "tokenizer")
    with pytest.raises(sf.LoadError, match="is a link that leads out"):
        used(place)


def test_a_folder_called_snapshots_is_no_cache_of_the_hub(private: Path, tmp_path: Path) -> None:
    """Links of the Hub's cache lead from `snapshots` to `blobs`; a download could be laid out to look like one."""
    (tmp_path / "blobs").mkdir()
    place = shutil.copytree(EMBEDDED / "emoji", tmp_path / "snapshots" / "x")
    shutil.rmtree(place / "tokenizer")
    (place / "tokenizer").symlink_to(private / "tokenizer")
    with pytest.raises(sf.LoadError, match="is a link that leads out"):
        used(place)


def test_the_command_line_names_folders_too(private: Path, place: Path) -> None:
    graph_with(place, pretrained_model_name_or_path=str(private), subfolder="tokenizer")
    run = CliRunner().invoke
    refused = run(app, ["check", str(place)])
    assert refused.exit_code == 1
    assert f"If the path is yours, pass --folder {private}." in " ".join(refused.output.split())
    for file in (place, place / "graph.json"):
        assert run(app, ["check", str(file), "--folder", str(private)]).exit_code == 0


def test_a_save_that_names_another_folder_says_how_to_load_it(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="sfumato")
    pipe = sf.load(place)
    pipe.save(tmp_path / "mine")
    assert f"To load it, pass access=sf.Access(folders=['{place}'])." in caplog.text
    assert sf.load(tmp_path / "mine", access=sf.Access(folders=[place])) == pipe


class Read(NamedTuple):
    text: str


class ReadFile(sf.Block, name="doors.ReadFile"):
    """A block of a plug-in that reads a file."""

    path: Path

    def __call__(self, prompt: str) -> Read:
        return Read(prompt)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "~/x", "a/../../x", "C:/x", "file:///x"])
def test_paths_in_the_settings_of_blocks_lead_nowhere(path: str, tmp_path: Path) -> None:
    with pytest.raises(sf.GraphFileError, match="has the path"):
        sf.Graph(read=ReadFile(path=Path(path))).save(tmp_path)
    sf.Graph(read=ReadFile(path=Path("a/b"))).save(tmp_path)
    text = (tmp_path / "graph.json").read_text()
    (tmp_path / "graph.json").write_text(text.replace('"a/b"', json.dumps(path)))
    with pytest.raises(sf.GraphFileError, match=r"takes Path, got|needs a path inside"):
        sf.Graph.load(tmp_path)
