"""`sfumato train`: the whole way from a folder of pictures to a file, on the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import sfumato as sf
from sfumato.presets.cli.app import app
from sfumato.presets.cli.training import METHODS as COMMANDS
from sfumato.presets.training.listing import listed_settings
from sfumato.presets.training.methods import METHODS


def train(*args: str) -> Result:
    return CliRunner().invoke(app, ["train", *args])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square")
    return folder


def test_each_method_has_a_command() -> None:
    assert set(COMMANDS) == set(METHODS)


def test_a_lora_is_trained_stopped_and_continued(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, settings = tmp_path / "out", tmp_path / "settings.toml"
    settings.write_text('rank = 2\nsteps = 9\nlr_schedule = { name = "cosine" }\ntrackers = []\n')
    made = train("lora", str(pictures), "-o", str(output), "--settings", str(settings), "--steps", "1", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["files"] == [str(output / "lora.safetensors")]
    assert sf.load_adapter(output / "lora.safetensors").ranks == (2,)
    record = json.loads((output / "training.json").read_text())
    assert "cosine" in json.dumps(record)

    more = train("resume", str(output), "--steps", "2")
    assert more.exit_code == 0, more.output
    assert more.stdout.splitlines() == [str(output / "lora.safetensors"), f"Its card is {output / 'README.md'}."]
    assert "`steps` | `2`" in (output / "README.md").read_text()

    monkeypatch.setenv("RANK", "1")  # of several processes, the first one alone prints
    assert train("resume", str(output), "--steps", "2").stdout == ""
    assert (output / "recipe.svg").read_text().startswith("<svg")


def test_a_dry_run_writes_nothing(pictures: Path, tmp_path: Path) -> None:
    made = train("lora", str(pictures), "-o", str(tmp_path / "out"), "--set", "rank=2", "--steps", "50", "--dry-run")
    assert made.exit_code == 0, made.output
    assert [line.split()[0] for line in made.stdout.splitlines()] == [
        "steps", "data", "trained", "memory", "time", "computed",
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["lora"], "DATA is missing. Pass a folder of pictures: sfumato train lora FOLDER"),
        (["lora", "missing"], "missing: there is no such folder or file, and it is no repo of the Hub."),
        (["lora", ".", "--set", "rank"], "--set 'rank': has no value. Write --set NAME=VALUE."),
        (["lora", ".", "--set", "steps=2", "--steps", "3"], "--set 'steps=2': steps is set twice. Remove one."),
        (["lora", ".", "--set", "rang=3"], "rang is no setting. Did you mean 'rank'?"),
        (["lora", ".", "--settings", "missing.toml"], "missing.toml: cannot be read"),
        (["resume", "missing"], "missing"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    args: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = train(*args)
    assert made.exit_code == 1
    assert text in made.stderr
    assert "Traceback" not in made.output


def test_settings_are_listed_with_types_and_defaults() -> None:
    rows = {one.name: one for one in listed_settings("lora")}
    assert (rows["rank"].type, rows["rank"].default) == ("int", "16")
    assert {"steps", "prompt", "flip", "weight"} <= rows.keys()
    assert listed_settings("embedding")[0].default == ""
    shown = train("embedding", "--list").stdout.splitlines()
    assert shown[0].endswith("(required)")
    assert len(json.loads(train("lora", "--list", "--json").stdout)) == len(rows)
