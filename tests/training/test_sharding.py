"""FSDP: two processes, each with a part of what is trained, equal one with twice the batch."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sfumato as sf
from sfumato import Graph
from sfumato.presets.training.events import StepFinished, Validated

from .forked import in_two_processes, shard_on_cpu

ALL: Mapping[str, Any] = {
    "size": 32, "steps": 2, "learning_rate": 1e-3, "lr_schedule": "cosine", "warmup": 1, "max_gradient_norm": 0.05,
    "trackers": [],
    "samples": [{"prompt": "a fox", "seed": 1, "num_inference_steps": 1}],
}  # fmt: skip
TRAININGS: Mapping[str, Mapping[str, Any]] = {
    "lora": {"rank": 2, "up_lr_factor": 4.0, "ema": True},
    "finetune": {"learning_rate": 1e-4, "gradient_checkpointing": True, "ema": True},
    "embedding": {"words": "<w>", "initializer": "a", "templates": None, "rank": 2},
}
"""Each method, with the settings that are its own."""
RUNS = {"parts": tuple(TRAININGS), "kept": ("finetune",)}
"""Trainings of two processes: with weights in parts after each forward, or whole until the backward pass."""


def _train(name: str, pipe: Graph, pictures: Path, output: Path, **settings: Any) -> list[float]:
    """Train, and give the losses."""
    losses = list[float]()

    def note(event: Any) -> None:
        if isinstance(event, StepFinished | Validated):
            losses.append(event.loss)

    sf.train(
        name, data=pictures, validation=pictures, model=pipe, output=output / name, on_event=note,
        **{**ALL, **TRAININGS[name], **settings},
    )  # fmt: skip
    return losses


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures: the last step of an epoch has a process without a batch."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        values = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize((32, 32)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a <w>")
    return folder


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_sharded_processes_equal_one_with_twice_the_batch(
    tiny: Callable[..., Graph], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny()

    def work(rank: int) -> None:
        shard_on_cpu(monkeypatch, "BasicTransformerBlock")
        for folder, names in RUNS.items():
            os.environ["FSDP_RESHARD_AFTER_FORWARD"] = str(folder == "parts")
            losses = {name: _train(name, pipe, pictures, tmp_path / folder, accumulation=2) for name in names}
            torch.save(losses, tmp_path / f"{folder}-{rank}.pt")

    in_two_processes(work)
    losses = {name: _train(name, pipe, pictures, tmp_path / "one", batch_size=4) for name in TRAININGS}
    for folder, name in [(folder, name) for folder, names in RUNS.items() for name in names]:
        for rank in range(2):
            assert torch.load(tmp_path / f"{folder}-{rank}.pt")[name] == pytest.approx(losses[name], abs=1e-6)
        one, two = tmp_path / "one" / name, tmp_path / folder / name
        saved = [file.relative_to(one) for file in sorted(one.rglob("*.safetensors")) if "process-" not in file.name]
        assert {"trained.safetensors", "optimizer.safetensors"} < {file.name for file in saved}
        for file in saved:
            ours, theirs = load_file(two / file), load_file(one / file)
            assert ours.keys() == theirs.keys()
            for key, tensor in theirs.items():
                torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6)
        pictures_of = [Image.open(each / "samples" / "final" / "0-0.png") for each in (one, two)]
        far = np.abs(np.subtract(*(np.asarray(picture, dtype=np.int16) for picture in pictures_of)))
        assert far.max() <= 1
