"""Settings: one checked value, from keywords or a file."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
from accelerate import DistributedType

import sfumato as sf
from sfumato.presets.training.devices import make_accelerator
from sfumato.presets.training.settings import TrainingSettings, named_choice, read_settings


def test_settings_are_read_from_toml_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        'steps = 100\nlearning_rate = 1\n[optimizer]\nname = "adamw"\nweight_decay = 0.0\n'
        '[[samples]]\nprompt = "a fox"\nseed = 7\n'
    )
    (tmp_path / "a.json").write_text(
        '{"steps": 100, "learning_rate": 1, "optimizer": {"name": "adamw", "weight_decay": 0.0},'
        ' "samples": [{"prompt": "a fox", "seed": 7}]}'
    )
    toml, json = (TrainingSettings.of(read_settings(tmp_path / name)) for name in ("a.toml", "a.json"))
    assert toml == json
    assert toml.learning_rate == 1.0 and toml.samples == ({"prompt": "a fox", "seed": 7},)
    assert named_choice("optimizer", toml.optimizer) == ("adamw", {"weight_decay": 0.0})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "steps = ", "is not TOML: Invalid value (at end of document). Correct that place."),
        ("a.json", "[1]", "needs a table of settings, got [1]."),
        ("a.json", '{"a": 1, "a": 2}', "has the key 'a' twice in one object ({'a', 'a'}). Remove one."),
        ("b.toml", None, "cannot be read (No such file or directory). Pass a TOML or JSON file."),
    ],
)
def test_files_that_are_no_settings_are_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(sf.ConfigError) as error:
        read_settings(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}: {message}"


def test_unknown_settings_name_similar_ones() -> None:
    with pytest.raises(sf.ConfigError, match=r"^lerning_rate is no setting. Did you mean 'learning_rate'\?"):
        TrainingSettings.of({"lerning_rate": 1e-4})


def test_all_problems_come_at_once() -> None:
    with pytest.raises(sf.ConfigError) as error:
        TrainingSettings.of({"batch_size": 0, "draws": "all", "steps": 3, "epochs": 2, "learning_rate": "1e-4"})
    assert str(error.value) == (
        "the settings of a training: 4 problems\n"
        "  batch_size takes int (input should be greater than or equal to 1), got 0.\n"
        "  draws takes 'per_row' | 'sequential', got 'all'.\n"
        "  learning_rate takes float | None, got '1e-4'.\n"
        "  steps and epochs exclude each other, got 3 and 2. Leave one out."
    )
    with pytest.raises(sf.ConfigError, match=r"^sample_every needs samples, such as"):
        TrainingSettings(sample_every=10)
    with pytest.raises(sf.ConfigError, match=r"^optimizer: needs a name, got \{'lr': 1\}\. Pass"):
        named_choice("optimizer", {"lr": 1})


@pytest.mark.parametrize(
    ("kind", "config", "text"),
    [
        (
            "MEGATRON_LM",
            {},
            "The config of accelerate sets MEGATRON_LM, whose optimizer cannot be saved in",
        ),
        ("FSDP", {"fsdp_version": 1}, "The config of accelerate sets FSDP of version 1, whose parameters"),
        (
            "FSDP",
            {"fsdp_version": 2, "activation_checkpointing": True},
            "The config of accelerate sets fsdp_",
        ),
    ],
)
def test_configs_of_sharding_that_cannot_be_used_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str, config: dict[str, Any], text: str
) -> None:
    plugin = SimpleNamespace(**config)
    monkeypatch.setattr(accelerate.Accelerator, "distributed_type", DistributedType[kind])
    monkeypatch.setattr(accelerate.state.AcceleratorState, "fsdp_plugin", plugin, raising=False)
    with pytest.raises(sf.ConfigError, match=f"^{text}"):
        make_accelerator(TrainingSettings(trackers=()))


def test_a_precision_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(sf.ConfigError) as error:
        make_accelerator(TrainingSettings(mixed_precision="fp16", device="cpu", trackers=()))
    assert str(error.value) == "mixed_precision: 'fp16' needs another device than cpu. Pass 'bf16', or 'no'."


def test_unknown_trackers_and_missing_ones_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(sf.ConfigError, match=r"^trackers: 'tensorbord' is unknown. Did you mean 'tensorboard'\?"):
        make_accelerator(TrainingSettings(trackers=("tensorbord",)), tmp_path)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(sf.ConfigError) as error:
        make_accelerator(TrainingSettings(trackers=("tensorboard",)), tmp_path)
    assert str(error.value) == 'trackers: needs the package tensorboard. Install it: pip install "sfumato[train]"'
