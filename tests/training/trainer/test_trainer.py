"""The gradient of a step, its losses and its learning rate do not depend on how the samples are divided."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import sfumato as sf
from sfumato.presets.training.events import BatchFinished, Sampled, StepFinished, Validated
from sfumato.presets.training.trainer import Trainer

from .conftest import Net, Predict, Shuffled

Make = Callable[..., Trainer]


class Picture:
    def save(self, file: Path) -> None:
        file.write_bytes(b"png")


class Pictures(NamedTuple):
    images: list[Picture]


class Draw(sf.Block):
    drawn: Callable[[torch.Tensor], None]
    net: torch.nn.Module = sf.component()

    def __call__(self, seed: int) -> Pictures:
        self.drawn(self.net(torch.full((1, 3), float(seed))))
        return Pictures([Picture()])


def steps_of(trainer: Trainer) -> list[StepFinished]:
    return [event for event in trainer.stream() if isinstance(event, StepFinished)]


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.trained.parameters()])


@pytest.mark.parametrize("count", [12, 10])  # 10: the last step of an epoch has one batch of two rows
def test_accumulation_of_batches_equals_one_large_batch(make: Make, count: int) -> None:
    one = make(batch_size=4, lr_schedule="cosine", warmup=2, count=count)
    other = make(batch_size=2, accumulation=2, lr_schedule="cosine", warmup=2, count=count)
    first, second = steps_of(one), steps_of(other)
    assert [step.loss for step in first] == pytest.approx([step.loss for step in second], abs=1e-6)
    assert [step.learning_rates for step in first] == [step.learning_rates for step in second]
    assert [step.epoch for step in first] == [step.epoch for step in second]
    torch.testing.assert_close(weights_of(one), weights_of(other), rtol=0, atol=1e-6)


def test_unequal_batches_count_by_their_rows(make: Make) -> None:
    one, other = make(batch_size=5, count=5), make(batch_size=3, accumulation=2, count=5)
    first, second = steps_of(one), steps_of(other)
    assert [step.loss for step in first] == pytest.approx([step.loss for step in second], abs=1e-6)
    torch.testing.assert_close(weights_of(one), weights_of(other), rtol=0, atol=1e-6)


def test_an_epoch_ends_with_a_step(make: Make) -> None:
    trainer = make(batch_size=2, accumulation=2, count=10, epochs=2, steps=None)
    assert trainer.steps == 6
    events = [type(event) for event in trainer.stream()]
    assert events == [BatchFinished, StepFinished, BatchFinished, StepFinished, StepFinished] * 2
    assert trainer.trained.steps == 6


def test_sequential_draws_use_one_generator(make: Make) -> None:
    trainer = make(draws="sequential", count=2, batch_size=2, steps=2, seed=5)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(5))
    points = Shuffled(2, 2).epoch(0)[0].load()["points"]
    with torch.no_grad():
        loss = (Net().net(points + noise) - noise).square().mean()
    assert steps_of(trainer)[0].loss == float(loss)


def test_groups_have_their_own_learning_rates(make: Make) -> None:
    rates = [step.learning_rates for step in steps_of(make(learning_rates={"first": 0.01}, lr_schedule="linear"))]
    assert rates[0] == {"first": 0.01, "second": 0.1}
    assert rates[4] == {"first": 0.005, "second": 0.05}


def test_gradients_are_clipped_by_their_norm(make: Make) -> None:
    free = steps_of(make(max_gradient_norm=None, optimizer="sgd", steps=1))[0]
    clipped = make(max_gradient_norm=0.01, optimizer="sgd", learning_rate=1.0, steps=1)
    before = weights_of(clipped)
    step = steps_of(clipped)[0]
    assert step.gradient_norm == free.gradient_norm > 0.01
    change = (weights_of(clipped) - before).norm()
    assert 0.01 < change < 0.0201  # the second group has twice the rate


def test_the_validation_loss_has_the_same_noise_each_time(make: Make, tmp_path: Path) -> None:
    trainer = make(validate_every=1, steps=3, validation=Shuffled(5, 2), optimizer="adamw_schedule_free")
    validated = [event for event in trainer.stream() if isinstance(event, Validated)]
    assert trainer.validate(Shuffled(5, 2)).loss == validated[-1].loss
    assert trainer.validate(Shuffled(5, 3)).loss == pytest.approx(validated[-1].loss)
    least = [min(event.loss for event in validated[: i + 1]) for i in range(3)]
    assert [event.best for event in validated] == [
        event.loss == loss for event, loss in zip(validated, least, strict=True)
    ]


def test_validation_and_pictures_change_nothing_in_the_training(make: Make, tmp_path: Path) -> None:
    plain = make(dropout=0.5, optimizer="adamw_schedule_free")
    watched = make(dropout=0.5, optimizer="adamw_schedule_free", validate_every=1, validation=Shuffled(4, 2))
    assert [step.loss for step in steps_of(plain)] == [step.loss for step in steps_of(watched)]
    assert torch.equal(weights_of(plain), weights_of(watched))


def test_the_preset_draws_sample_pictures_with_the_average(make: Make, tmp_path: Path) -> None:
    drawn = list[torch.Tensor]()
    pipe = sf.Graph(draw=Draw(drawn=drawn.append), outputs=["images"])
    trainer = make(pipe=pipe, output=tmp_path, sample_every=4, samples=[{"seed": 1}, {"seed": 2}], ema=True, steps=4)
    files = [event.files for event in trainer.stream() if isinstance(event, Sampled)]
    assert [[file.name for file in each] for each in files] == [["0-0.png", "1-0.png"]]
    assert files[0][0].parent == tmp_path / "samples" / "step-00000004"
    trainer.save_trained(tmp_path / "average.pt")
    saved = Net()
    saved.load_state_dict(torch.load(tmp_path / "average.pt"))
    saved.eval()
    assert torch.equal(drawn[1], saved.net(torch.full((1, 3), 2.0)))
    assert not torch.equal(drawn[1], trainer.trained.bindings()["net"](torch.full((1, 3), 2.0)))


@pytest.mark.filterwarnings("ignore:(The input|This run)")  # runs warn of such values themselves
def test_a_loss_that_is_nan_stops_with_the_names_of_the_samples(make: Make, tmp_path: Path) -> None:
    trainer = make(scales={"7": float("nan")}, count=8, batch_size=2, save_every=1, output=tmp_path)
    number = next(i for i, batch in enumerate(Shuffled(8, 2).epoch(0)) if "7" in batch.names)
    names = Shuffled(8, 2).epoch(0)[number].names
    with pytest.raises(sf.NotFinite) as error:
        trainer.run()
    last = tmp_path / "checkpoints" / f"step-{number:08d}"
    assert str(error.value) == (
        f"Step {number + 1}: the loss is nan for the samples {', '.join(names)}. The last checkpoint is {last}. Look "
        "at these samples, or lower the learning rate, and train again."
    )
    assert trainer.step == number and weights_of(trainer).isfinite().all()


def test_ctrl_c_saves_a_checkpoint_and_ends(make: Make, tmp_path: Path) -> None:
    trainer = make(output=tmp_path, accumulation=2, batch_size=2, steps=6)
    before = signal.getsignal(signal.SIGINT)
    events = trainer.stream()
    for event in events:
        if isinstance(event, BatchFinished) and event.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            break
    folder = tmp_path / "checkpoints" / "step-00000003-1"
    assert next(events).folder == folder  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyboardInterrupt, match=r"interrupted after 3 of 6 steps\. Its checkpoint is") as error:
        next(events)
    assert str(folder) in str(error.value) and folder.is_dir()
    assert signal.getsignal(signal.SIGINT) == before


def test_wrong_arguments_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(sf.ConfigError, match=r'^resume="auto" needs an output folder. Pass output=.$'):
        make(resume="auto")
    with pytest.raises(sf.ConfigError, match=r"^data: has no picture. Pass a folder"):
        make(count=0).run()
    with pytest.raises(sf.ConfigError, match=r"^recipe: needs the output 'loss'"):
        Trainer(sf.Graph(predict=Predict()), make().trained, Shuffled(2, 1))
    with pytest.raises(sf.ConfigError) as error:
        make(warmup=8, validate_every=2)
    assert str(error.value) == (
        "the settings of a training: 2 problems\n"
        "  warmup needs fewer steps than the whole training, which has 8, got 8. Lower it, or pass more steps.\n"
        "  validate_every needs data for the validation. Pass validation=."
    )


def test_validation_data_is_used_at_the_end(make: Make) -> None:
    events = list(make(steps=3, validation=Shuffled(5, 2)).stream())
    assert [(type(event), event.step) for event in events[-2:]] == [(StepFinished, 3), (Validated, 3)]


@pytest.mark.filterwarnings("ignore:(The input|This run)")  # runs warn of such values themselves
def test_a_validation_loss_that_is_nan_stops_with_the_names_of_the_samples(make: Make) -> None:
    broken = Shuffled(4, 1, {"2": float("nan")})
    with pytest.raises(sf.NotFinite, match=r"^Step 2: the validation loss is nan for the samples 2\. No checkpoint"):
        make(steps=3, validate_every=2, validation=broken).run()


def test_what_a_program_draws_between_steps_changes_nothing_and_is_not_changed(make: Make) -> None:
    plain = [step.loss for step in steps_of(make(dropout=0.5))]
    torch.manual_seed(5)
    expected = torch.rand(8)
    torch.manual_seed(5)
    mine, losses = list[torch.Tensor](), list[float]()
    for event in make(dropout=0.5).stream():
        if isinstance(event, StepFinished):
            mine.append(torch.rand(1))
            losses.append(event.loss)
    assert losses == plain and torch.equal(torch.cat(mine), expected)


def test_trainings_in_two_threads_are_those_of_one(make: Make) -> None:
    settings = {"dropout": 0.5, "accumulation": 3, "batch_size": 2, "steps": 12}
    alone = [weights_of(run(make(**settings, seed=seed))) for seed in (1, 2)]
    both = [make(**settings, seed=seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as threads:
        together = [weights_of(each) for each in threads.map(run, both)]
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def run(trainer: Trainer) -> Trainer:
    list(trainer.stream())
    return trainer
