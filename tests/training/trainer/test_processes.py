"""Two processes equal one with twice the batch."""

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from sfumato.presets.training.trainer import Trainer

from .conftest import Shuffled
from .test_trainer import steps_of, weights_of

Make = Callable[..., Trainer]


def _train(make: Make, rank: int, port: int, output: Path, settings: dict[str, Any]) -> None:
    """One of two processes: train three steps, resume, and train on, with a tracker."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in environment.items()} | {"ACCELERATE_USE_CPU": "true"}
    first = make(**settings, output=output, trackers=["tensorboard"])
    losses = [next(events) for events in [first.stream()] for _ in range(3)]
    first.save()
    del first
    trainer = make(**settings, output=output, resume="auto")
    assert trainer.step == 3
    losses += steps_of(trainer)
    validated = trainer.validate(Shuffled(5, 2)).loss
    torch.save([losses, weights_of(trainer), validated], output / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_equal_one_with_twice_the_batch(make: Make, tmp_path: Path) -> None:
    settings = {"count": 10, "lr_schedule": "cosine", "warmup": 2, "ema": True}  # of 10, a last batch of two rows
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = list[int]()
    for rank in range(2):
        child = os.fork()
        if not child:
            try:
                _train(make, rank, port, tmp_path, {**settings, "batch_size": 2})
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    one = make(**settings, batch_size=4)
    steps = steps_of(one)
    for rank in range(2):
        losses, weights, validated = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert [step.loss for step in losses] == pytest.approx([step.loss for step in steps], abs=1e-6)
        assert [step.learning_rates for step in losses] == [step.learning_rates for step in steps]
        torch.testing.assert_close(weights, weights_of(one), rtol=0, atol=1e-6)
        assert validated == pytest.approx(one.validate(Shuffled(5, 2)).loss, abs=1e-6)
