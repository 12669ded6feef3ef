"""`sf.train` on the embedded model: the result, its pictures, its record, and how it goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import sfumato as sf
from sfumato.presets.training.events import CheckpointSaved, Sampled, StepFinished
from sfumato.presets.training.namespaces import divided
from sfumato.presets.training.record import write_record
from sfumato.presets.training.train import plan_training, prepare, resume_training, train

CALL = {"prompt": "a fox", "seed": 7, "num_inference_steps": 2}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three pictures of one colour each, in two shapes, with captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, width in (("red", 64), ("green", 128), ("blue", 64)):
        Image.new("RGB", (width, 64), name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} square")
    return folder


def test_training_gives_the_adapter_that_draws_the_sample_pictures(rows: Path, tmp_path: Path) -> None:
    output, events = tmp_path / "out", list[Any]()
    settings: dict[str, Any] = {
        "data": rows, "rank": 2, "batch_size": 2, "learning_rate": 0.01, "size": {"size": 64, "step": 32}, "flip": 0.5,
        "dropout": 0.1, "ema": True, "warmup": 1, "layout": "kohya", "dtype": "float16",
    }  # fmt: skip
    adapter = train(
        "lora", **settings, output=output, epochs=1, samples=[CALL], sample_every=2, trackers=["tensorboard"],
        on_event=events.append,
    )  # fmt: skip
    assert [type(event) for event in events] == [StepFinished, StepFinished, Sampled, CheckpointSaved]
    drawn = sf.load("emoji").with_adapters(adapter)(**CALL).images[0]
    for file in (events[2].files[0], output / "samples" / "final" / "0-0.png"):
        assert Image.open(file).convert("RGB").tobytes() == drawn.convert("RGB").tobytes()
    plain = sf.load("emoji")(**CALL).images[0]
    assert plain.convert("RGB").tobytes() != drawn.convert("RGB").tobytes()
    assert {"lora.safetensors", "README.md", "recipe.svg", "training.json", "checkpoints", "logs"} <= {
        file.name for file in output.iterdir()
    }
    with safe_open(output / "lora.safetensors", "pt") as file:  # pyright: ignore[reportUnknownVariableType]
        header: dict[str, str] = file.metadata()
    wanted = {"ss_learning_rate": "0.01", "ss_steps": "2", "ss_num_train_images": "3", "ss_optimizer": "adamw"}
    assert wanted.items() <= header.items() and "a red square" in header["ss_tag_frequency"]
    resumed = resume_training(output, steps=3, on_event=events.append)
    whole = train("lora", **settings, output=tmp_path / "whole", steps=3, trackers=[], on_event=events.append)
    assert isinstance(resumed, sf.Adapter) and isinstance(whole, sf.Adapter)
    assert events[4].loss == events[-2].loss and events[4].step == 3  # of the second epoch
    files = [load_file(folder / "lora.safetensors") for folder in (output, tmp_path / "whole")]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())


def test_a_plan_says_what_a_training_needs(rows: Path, tmp_path: Path) -> None:
    plan = plan_training("lora", data=rows, output=tmp_path / "out", rank=2, batch_size=2, epochs=3, ema=True)
    assert (plan.steps, plan.epochs, plan.pictures, plan.batches, plan.rows) == (6, 3, 3, 2, 2)
    assert plan.memory["trained"] == plan.memory["ema"] == plan.parameters * 4
    assert plan.memory["optimizer"] >= plan.parameters * 8
    assert set(plan.frozen) == {"positive", "posterior"}
    assert plan.seconds == 6 * plan.seconds_per_step > 0
    assert str(plan).startswith("steps         6 of 2 rows, 3 epochs\ndata          3 pictures, 2 batches in ")
    assert not (tmp_path / "out").exists()
    with pytest.raises(sf.ConfigError, match=r"^A plan is measured on two steps, and the training has 1. Pass more"):
        plan_training("lora", data=rows, steps=1, rank=2)


def test_layers_that_are_computed_again_give_the_same_gradients(rows: Path) -> None:
    def norms(checkpointing: bool) -> list[float]:
        settings = {"rank": 2, "batch_size": 2, "steps": 2, "gradient_checkpointing": checkpointing}
        training = prepare("lora", rows, "emoji", rows, None, True, {}, settings, saves=False)
        events = training.trainer.stream()
        return [event.gradient_norm for event in events if isinstance(event, StepFinished)]

    assert norms(True) == norms(False)


def test_settings_of_all_parts_are_checked_together() -> None:
    parts = divided(
        {
            "steps": 3,
            "seed": 5,
            "rank": 8,
            "size": {"size": 128, "step": 32},
            "captions": {"dropout": 0.5},
            "prompt": "a",
        },
        {"rank": int, "seed": int},
    )
    assert parts.training.steps == 3 and parts.training.seed == 5
    assert parts.method == {"rank": 8, "seed": 5}
    assert parts.data == {"size": sf.data.Buckets(128, step=32), "captions": sf.data.Captions(dropout=0.5)}
    assert parts.source == {"prompt": "a"}
    with pytest.raises(sf.ConfigError) as error:
        divided({"rnk": 8, "flip": "yes"}, {"rank": int})
    assert str(error.value).startswith(
        "the settings of a training: 2 problems\n  rnk is no setting. Did you mean 'rank'? There are: steps, "
    )
    assert str(error.value).endswith("\n  flip takes float, got 'yes'.")


def test_only_a_training_of_plain_values_can_be_resumed_from_its_folder(tmp_path: Path) -> None:
    with pytest.raises(sf.LoadError, match=r"training.json: cannot be read \(No such file or directory\). Pass"):
        resume_training(tmp_path)
    write_record(tmp_path, {"data": Image.new("L", (1, 1))}, {})
    with pytest.raises(sf.ConfigError, match=r"with objects that no file has\. Call sf\.train again with the same"):
        resume_training(tmp_path)
