"""What `sf.inspect` says of presets, folders and graphs."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import sfumato as sf
from sfumato.presets.names import EMBEDDED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model that a test may damage."""
    return shutil.copytree(EMBEDDED / "emoji", tmp_path / "model")


def test_the_embedded_preset_is_told_from_its_headers() -> None:
    found = sf.inspect("emoji")
    assert found.family == "sd" and found.tasks == ("text2image", "image2image", "inpaint") and found.missing == ()
    parts = {part.name: part for part in found.components}
    file = EMBEDDED / "emoji" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file).values()
    assert parts["unet"].parameters == sum(t.numel() for t in tensors)
    assert parts["unet"].bytes == file.stat().st_size and parts["unet"].dtype == "float16"
    assert parts["tokenizer"].parameters == 0 and parts["tokenizer"].dtype == ""
    assert found.parameters == sum(part.parameters for part in found.components)


def test_it_is_a_value_that_reads_well() -> None:
    found = sf.inspect("emoji")
    assert found == sf.inspect("emoji")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.family = "sdxl"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    lines = str(found).splitlines()
    assert lines[0] == "emoji" and "  family      sd" in lines
    assert any(line.split()[:3] == ["unet", "UNet2DConditionModel", "float16"] for line in lines)


def test_what_is_missing_is_said_with_its_place(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "tokenizer").rename(folder / "words")
    found = sf.inspect(folder)
    assert len(found.missing) == 2, found.missing
    assert any(line.startswith("vae: ") and "has no weights" in line for line in found.missing)
    assert any(line.startswith("tokenizer: ") for line in found.missing)
    assert "\n  missing\n    tokenizer: " in str(found)


def test_a_component_that_the_index_lacks_is_missing(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    del index["vae"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert sf.inspect(folder).missing == ("vae: the index has none, and the tasks need an Autoencoder.",)


def test_a_damaged_file_is_said_once(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    (line,) = sf.inspect(folder).missing
    assert line.startswith("unet: ") and "damaged" in line


def test_a_component_that_no_task_uses_may_be_absent(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    found = sf.inspect(folder)
    assert found.missing == ()
    assert not next(part for part in found.components if part.name == "safety_checker").used
    assert "(no task uses it)" in str(found)


def test_an_unknown_pipeline_is_told_with_its_components(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "NovelPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    found = sf.inspect(folder)
    assert found.family is None and "NovelPipeline" in found.missing[0]
    assert {part.name for part in found.components} >= {"unet", "vae"}


def test_a_family_says_what_it_needs() -> None:
    found = sf.inspect("sd")
    assert found.components == () and {line.partition(":")[0] for line in found.missing} >= {"unet", "vae"}


def test_a_graph_is_told_by_what_it_holds(tmp_path: Path) -> None:
    pipe = sf.load("emoji")
    held = {part.name: part for part in sf.inspect(pipe).components}
    assert held["unet"] == {part.name: part for part in sf.inspect("emoji").components}["unet"]
    pipe.save(tmp_path)
    assert (
        sf.inspect(tmp_path).parameters == sf.inspect(tmp_path / "graph.json").parameters == sf.inspect(pipe).parameters
    )
    with_object = pipe.bind(unet=pipe.bindings["unet"].load())
    unet = next(part for part in sf.inspect(with_object).components if part.name == "unet")
    assert unet.source == "an object" and unet.dtype == "float32" and unet.parameters == held["unet"].parameters


def test_what_is_nothing_is_refused() -> None:
    with pytest.raises(sf.LoadError, match="Did you mean 'emoji'"):
        sf.inspect("emogi")
