"""`sf.train` refuses what would train something else than the user means, before it starts."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato as sf
from sfumato.presets.training.events import StepFinished
from sfumato.presets.training.namespaces import divided, read_validation
from sfumato.presets.training.recipe import recipe
from sfumato.presets.training.record import read_record, warn_of_changes, write_record
from sfumato.presets.training.train import plan_training, train


@pytest.fixture
def red(tmp_path: Path) -> Path:
    """A folder with one picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    (folder / "red.txt").write_text("a red square")
    return folder


def refusal(method: Any, folder: Any, output: Path, **settings: Any) -> str:
    """The error of a training. Nothing is written."""
    with pytest.raises(sf.ConfigError) as error:
        train(method, data=folder, output=output / "out", **settings)
    assert not (output / "out").exists()
    return str(error.value)


def test_a_layout_and_a_device_are_checked_before_the_training(red: Path, tmp_path: Path) -> None:
    assert refusal("lora", red, tmp_path, layout="comfyui").startswith(
        "layout: has no layout 'comfyui'. Did you mean 'comfy'?"
    )
    assert refusal("lora", red, tmp_path, kind="loha", rank=2, layout="peft").startswith(
        "layout: the layout 'peft' cannot express LoHa"
    )
    assert refusal("lora", red, tmp_path, device="meta") == (
        "device: 'meta' was passed, and accelerate uses 'cpu'. Pass that one; environment variables such as "
        "CUDA_VISIBLE_DEVICES choose another."
    )
    assert refusal("lora", red, tmp_path, device="gpu") == (
        "device: needs a device of torch such as 'cuda' or 'cpu', got 'gpu'."
    )


def test_dreambooth_needs_pictures_of_the_class(red: Path, tmp_path: Path) -> None:
    assert refusal("dreambooth", red, tmp_path, size=64) == (
        "The data has no pictures of the class of the subject. Pass class_prompt=, or a Source(…, is_prior=True); "
        "prior_weight=0 needs none."
    )


def test_settings_of_data_that_is_read_already_are_refused(red: Path, tmp_path: Path) -> None:
    end = "Pass a folder as data, or set it there: sf.load_data(…), sf.data.Source(…)."
    read = sf.load_data(red, size=64)
    assert refusal("lora", read, tmp_path, size=32) == f"size: has no use, because the data is read already. {end}"
    assert refusal("lora", sf.data.Source(red), tmp_path, prompt="a fox") == (
        f"prompt: is a setting of a source, and sources were passed. {end}"
    )


def test_a_preset_with_adapters_is_refused(red: Path, tmp_path: Path) -> None:
    pipe = sf.load("emoji").with_adapters(sf.load_adapter("emoji/adapters/two-tone.safetensors"))
    assert refusal("lora", red, tmp_path, model=pipe) == (
        "A recipe is made from a graph without adapters, and this one has some. Put them into the weights: "
        "pipe.merged()."
    )


def test_a_recipe_of_another_model_and_settings_that_it_does_not_read_are_refused(red: Path, tmp_path: Path) -> None:
    pipe = sf.load("emoji")
    net = sf.models.UNet2DConditionModel.from_config(pipe.bindings["unet"].config)
    assert refusal(recipe(pipe.bind(unet=net)), red, tmp_path) == (
        "The recipe is bound to another unet than the model. Make it of the preset that is passed: "
        "sf.train(recipe(pipe), model=pipe, …)."
    )
    assert refusal(recipe(pipe), red, tmp_path, weight="min_snr").startswith("weight is no setting.")
    losses = list[float]()
    recipe(pipe).save(tmp_path / "recipe")
    for method in ("lora", recipe(sf.load("emoji")), sf.load(tmp_path / "recipe")):
        train(
            method, data=red, output=tmp_path / str(len(losses)), size=64, rank=2, steps=1, trackers=[],
            on_event=lambda event: losses.append(event.loss) if isinstance(event, StepFinished) else None,
        )  # fmt: skip
    assert len(losses) == 3 and len(set(losses)) == 1


def test_captions_need_a_word_that_is_learned(red: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"words": "<zwx>", "initializer": "fox", "templates": None, "size": 64, "steps": 2}
    with pytest.raises(sf.UnfitValue) as error:
        plan_training("embedding", data=red, output=tmp_path / "out", **settings)
    assert str(error.value) == (
        "The caption 'a red square' has no word that is learned: <zwx>. Write one in it, or set trigger= of "
        "sf.data.Captions."
    )
    captions = sf.data.Captions(trigger="<zwx>", dropout=0.5)
    assert plan_training("embedding", data=red, captions=captions, **settings).steps == 2


def test_validation_data_keeps_its_captions_and_crops(red: Path) -> None:
    captions = sf.data.Captions(trigger="zwx", dropout=1.0, tag_dropout=1.0)
    parts = divided({"size": 32, "flip": 1.0, "crop": "random", "captions": captions}, {})
    read = read_validation(red, parts, sf.load("emoji"))
    sample = read.sample((0, 0, 0), 0, 0)
    assert sample.prompt == "zwx, a red square" and sample.placement.size == (32, 32)
    assert (read.layout.crop, read.layout.flip) == ("center", 0.0)


def test_a_record_has_paths_as_texts(tmp_path: Path) -> None:
    write_record(tmp_path, {"method": "lora", "data": tmp_path}, {"cache": tmp_path / "cache", "resume": "auto"})
    found = read_record(tmp_path)
    assert found == {"method": "lora", "data": str(tmp_path), "cache": str(tmp_path / "cache")}
    assert json.loads((tmp_path / "training.json").read_text())["settings"] == {"cache": str(tmp_path / "cache")}


def test_other_settings_of_a_method_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_record(tmp_path, {"method": "lora", "data": "d"}, {"rank": 4, "alpha": 8, "steps": 2})
    warn_of_changes(tmp_path, {"rank": 4, "alpha": 8, "steps": 5}, ("rank", "alpha", "dropout"))
    assert not caplog.text
    warn_of_changes(tmp_path, {"rank": 4, "dropout": 0.1}, ("rank", "alpha", "dropout"))
    assert (
        f"{tmp_path}: resumed with other settings: alpha was 8 and is None, dropout was None and is 0.1." in caplog.text
    )
