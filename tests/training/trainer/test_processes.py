"""Two processes equal one with twice the batch."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.presets.training.checkpoint import bytes_of
from sfumato.presets.training.events import BatchFinished, StepFinished
from sfumato.presets.training.sharding import gather, whole_weights
from sfumato.presets.training.trainer import Trainer

from ..forked import in_two_processes, shard_on_cpu
from .conftest import Shuffled
from .test_trainer import steps_of, weights_of

Make = Callable[..., Trainer]


def _train(make: Make, rank: int, output: Path, settings: dict[str, Any]) -> None:
    """One of two processes: train three steps, resume, and train on, with a tracker."""
    first = make(**settings, output=output, trackers=["tensorboard"])
    losses = [next(events) for events in [first.stream()] for _ in range(3)]
    first.save()
    del first
    trainer = make(**settings, output=output, resume="auto")
    assert trainer.step == 3
    losses += steps_of(trainer)
    validated = trainer.validate(Shuffled(5, 2)).loss
    torch.save([losses, weights_of(trainer), validated], output / f"{rank}.pt")


def _train_sharded(make: Make, rank: int, output: Path, settings: dict[str, Any]) -> None:
    """One of two processes with half of the weights: train, and train again with a resume inside an accumulation."""
    whole = make(**settings)
    losses = steps_of(whole)
    killed = make(**settings, output=output)
    events = killed.stream()
    assert [type(next(events)) for _ in range(3)] == [BatchFinished, StepFinished, BatchFinished]
    saved = killed.save()
    next(events)  # lost
    events.close()
    resumed = make(**settings, output=output, resume=saved.folder)
    parameters = [*resumed.trained.parameters()]
    assert sum(map(bytes_of, parameters)) < sum(p.numel() * 4 for p in parameters)
    assert [step.loss for step in steps_of(resumed)] == [step.loss for step in losses[1:]]
    states = [gather(trainer.trained.state_dict()) for trainer in (resumed, whole)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    validated = whole.validate(Shuffled(5, 2)).loss
    with whole_weights(whole.trained):
        torch.save([losses, weights_of(whole), validated], output / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_equal_one_with_twice_the_batch(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"count": 10, "lr_schedule": "cosine", "warmup": 2, "ema": True}  # of 10, a last batch of two rows

    def work(rank: int) -> None:
        _train(make, rank, tmp_path / "whole", {**settings, "batch_size": 2})
        shard_on_cpu(monkeypatch)
        _train_sharded(make, rank, tmp_path / "sharded", {**settings, "batch_size": 1, "accumulation": 2})

    in_two_processes(work)
    one = make(**settings, batch_size=4)
    steps = steps_of(one)
    for rank, kind in product(range(2), ("whole", "sharded")):
        losses, weights, validated = torch.load(tmp_path / kind / f"{rank}.pt", weights_only=False)
        assert [step.loss for step in losses] == pytest.approx([step.loss for step in steps], abs=1e-6)
        assert [step.learning_rates for step in losses] == [step.learning_rates for step in steps]
        torch.testing.assert_close(weights, weights_of(one), rtol=0, atol=1e-6)
        assert validated == pytest.approx(one.validate(Shuffled(5, 2)).loss, abs=1e-6)
