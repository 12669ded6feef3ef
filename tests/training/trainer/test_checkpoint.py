"""A resumed training goes on as if it had not stopped, to the bit."""

import errno
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.graph.saving import disk
from sfumato.presets.training.checkpoint import checkpoints_in
from sfumato.presets.training.events import CheckpointSaved, StepFinished, Validated
from sfumato.presets.training.resuming import check_trained
from sfumato.presets.training.trainer import Trainer

from .conftest import Shuffled
from .test_trainer import steps_of

Make = Callable[..., Trainer]
ALL = {
    "count": 7, "batch_size": 2, "accumulation": 3, "steps": 14, "warmup": 4, "lr_schedule": "cosine", "ema": True,
    "dropout": 0.5,
}  # fmt: skip


def state_of(trainer: Trainer) -> str:
    """All tensors and numbers of a training, as text."""
    torch.set_printoptions(precision=20)
    return repr((trainer.stepper.parts(), trainer.stepper.position))


@pytest.fixture(autouse=True)
def _exact_texts() -> Any:
    yield
    torch.set_printoptions(profile="default")


@pytest.mark.parametrize(
    ("optimizer", "draws", "places"),
    [
        ("adamw", "per_row", (1, 2, 3, 5, 6, 8)),  # an epoch has two steps, of three batches and of one
        ("adamw", "sequential", (6,)),
        ("prodigy", "per_row", (6,)),
        ("adamw_schedule_free", "per_row", (6,)),
        ("adafactor", "per_row", (6,)),
    ],
)
def test_a_training_that_is_resumed_after_any_batch_is_the_same(
    make: Make, tmp_path: Path, optimizer: str, draws: str, places: Sequence[int]
) -> None:
    options = {**ALL, "optimizer": optimizer, "draws": draws, "learning_rate": None, "factor": 1.0}
    whole = make(**options)
    losses = [step.loss for step in steps_of(whole)]
    for number in places:
        output = tmp_path / str(number)
        killed = make(**options, output=output)
        events = killed.stream()
        for _ in range(number):
            next(events)
        saved = killed.save()
        for _ in range(2):  # lost when the process ends
            next(events)
        events.close()
        resumed = make(**options, output=output, resume=saved.folder)
        after = [step.loss for step in steps_of(resumed)]
        assert after == losses[-len(after) :] and len(after) == 14 - saved.position.step
        assert state_of(resumed) == state_of(whole)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_training_that_is_killed_goes_on_from_its_last_checkpoint(make: Make, tmp_path: Path) -> None:
    whole = make(**ALL)
    losses = [step.loss for step in steps_of(whole)]
    process = os.fork()
    if not process:
        events = make(**ALL, output=tmp_path, save_every=3).stream()
        while True:
            event = next(events)
            if event.step == 4 and not isinstance(event, StepFinished):
                os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    resumed = make(**ALL, output=tmp_path, save_every=3, resume="auto")
    assert resumed.step == 3
    assert [step.loss for step in steps_of(resumed)] == losses[3:]
    assert state_of(resumed) == state_of(whole)


def test_the_newest_checkpoints_and_the_best_are_kept(make: Make, tmp_path: Path) -> None:
    data, rates = Shuffled(4, 2), {"learning_rate": 0.5, "optimizer": "sgd", "steps": 6, "max_gradient_norm": None}
    trainer = make(output=tmp_path, save_every=1, keep=2, validate_every=1, validation=data, **rates)
    validated = [event for event in trainer.stream() if isinstance(event, Validated)]
    best = min(validated, key=lambda event: event.loss).step
    kept = checkpoints_in(tmp_path / "checkpoints")
    assert [each.position.step for each in kept] == sorted({best, 5, 6}) and best < 5
    assert kept[0].validation_loss == validated[best - 1].loss
    resumed = make(output=tmp_path, resume="auto", validation=data, **rates)
    assert not resumed.validate(data).best


def test_a_full_disk_leaves_the_old_checkpoints(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(output=tmp_path, save_every=2, keep=1)

    def full(path: Path) -> None:
        if len(list((tmp_path / "checkpoints").glob("step-*"))) and trainer.step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(sf.SaveError, match=r"step-00000004.*: cannot be written \(No space left on device\). Make"):
        trainer.run()
    assert [each.position.step for each in checkpoints_in(tmp_path / "checkpoints")] == [2]
    assert make(output=tmp_path, resume="auto").step == 2


def test_a_broken_checkpoint_is_passed_over(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(output=tmp_path, save_every=2, steps=4).run()
    newest = tmp_path / "checkpoints" / "step-00000004"
    (newest / "trained.safetensors").write_bytes(b"\0" * 100)
    assert make(output=tmp_path, resume="auto").step == 2
    assert f"{newest / 'trained.safetensors'}: is broken" in caplog.text
    with pytest.raises(sf.LoadError, match=r"trained.safetensors: is broken: .* Resume from another checkpoint\.$"):
        make(output=tmp_path, resume=newest)
    (newest / "checkpoint.json").write_text("{")
    with pytest.raises(sf.LoadError, match=r"checkpoint.json: is broken: is not JSON at line 1"):
        make(resume=newest)
    with pytest.raises(sf.LoadError, match=r"nothing: is no checkpoint \(No such file or directory: checkpoint.json\)"):
        make(resume=tmp_path / "nothing")


def test_other_settings_are_refused_or_a_warning(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(output=tmp_path, steps=2).run()
    folder = tmp_path / "checkpoints" / "step-00000002"
    with pytest.raises(sf.ConfigError) as error:
        make(output=tmp_path, resume="auto", batch_size=2, optimizer="sgd")
    assert str(error.value) == (
        f"{folder}: cannot be resumed, because batch_size was 1 and is 2, optimizer was 'adamw' and is 'sgd', batches "
        "was 10 and is 5. Pass the old values, or train into another output folder."
    )
    assert make(output=tmp_path, resume="auto", steps=20, keep=5).step == 2
    assert not caplog.text
    make(output=tmp_path, resume="auto", learning_rate=0.1)
    assert f"{folder}: resumed with other settings: learning_rate was 0.05 and is 0.1." in caplog.text


def test_the_facts_of_a_checkpoint_are_json(make: Make, tmp_path: Path) -> None:
    make(output=tmp_path, steps=2).run()
    folder = tmp_path / "checkpoints" / "step-00000002"
    facts = json.loads((folder / "checkpoint.json").read_text())
    assert facts["position"] == {"step": 2, "epoch": 0, "step_in_epoch": 2, "batch": 0}
    assert facts["settings"]["learning_rate"] == 0.05
    assert sorted(file.name for file in folder.glob("*.safetensors")) == [
        "optimizer.safetensors", "process-0.safetensors", "trained.safetensors",
    ]  # fmt: skip


def test_a_folder_with_later_checkpoints_is_refused(make: Make, tmp_path: Path) -> None:
    make(output=tmp_path, steps=3, save_every=1).run()
    folder = tmp_path / "checkpoints"
    for resume in (None, folder / "step-00000002"):
        with pytest.raises(sf.ConfigError) as error:
            make(output=tmp_path, steps=4, resume=resume)
        assert str(error.value) == (
            f"{folder}: has the checkpoints of another training, up to step 3. Pass resume=\"auto\" to go on with that "
            "one, or pass another output folder."
        )  # fmt: skip
    assert [each.position.step for each in checkpoints_in(folder)] == [2, 3]


def test_a_broken_checkpoint_never_takes_the_place_of_a_new_one(make: Make, tmp_path: Path) -> None:
    make(output=tmp_path, save_every=2, steps=4).run()
    folder = tmp_path / "checkpoints"
    (folder / "step-00000004" / "trained.safetensors").write_bytes(b"\0" * 100)
    events = make(output=tmp_path, resume="auto", save_every=1, keep=1).stream()
    next(event for event in events if isinstance(event, CheckpointSaved))
    events.close()
    assert [each.position.step for each in checkpoints_in(folder)] == [3]


def test_a_checkpoint_of_other_weights_is_refused(make: Make, tmp_path: Path) -> None:
    make(output=tmp_path, steps=2).run()
    folder = tmp_path / "checkpoints" / "step-00000002"
    shapes = make().trained.state_dict()
    less = {name: tensor for name, tensor in shapes.items() if name != "second.bias"}
    more = {**shapes, "first.bias": torch.zeros(9)}
    texts = (
        "first.bias was the shape (8,), and is now the shape (9,)",
        "second.bias was the shape (3,), and is now missing",
    )
    for now, text in zip((more, less), texts, strict=True):
        with pytest.raises(sf.ConfigError) as error:
            check_trained(checkpoints_in(folder.parent)[0], now, shapes)
        assert str(error.value) == (
            f"{folder}: is of another training: {text}. Pass the old settings of the method, or train into another "
            "output folder."
        )
