"""A training of three small blocks: a line through points with noise, with rows that have names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.random import Random
from sfumato.components.training.trained import ParameterGroup, Trained
from sfumato.presets.training.settings import TrainingSettings
from sfumato.presets.training.trainer import Trainer


class Noisy(NamedTuple):
    noisy: Tensor
    noise: Tensor
    random: Random


class AddNoise(sf.Block):
    def __call__(self, points: Tensor, random: Random) -> Noisy:
        noise, random = random.draw(len(points), points.shape[1:])
        return Noisy(points + noise, noise, random)


class Predicted(NamedTuple):
    prediction: Tensor


class Predict(sf.Block):
    net: nn.Module = sf.component()

    def __call__(self, noisy: Tensor) -> Predicted:
        return Predicted(self.net(noisy))


class Loss(NamedTuple):
    loss: Tensor
    losses: Tensor


class MeanSquared(sf.Block):
    def __call__(self, prediction: Tensor, noise: Tensor) -> Loss:
        losses = (prediction - noise).square().mean(1)
        return Loss(losses.mean(), losses.detach())


class Net(Trained):
    """What is trained: two layers with dropout between them, in two groups."""

    def __init__(self, dropout: float = 0.0, factor: float = 2.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 3)
        self.net: nn.Module = nn.Sequential(self.first, nn.Tanh(), nn.Dropout(dropout), self.second)
        self.steps, self.factor = 0, factor

    def bindings(self, over: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        return {"net": self.net}

    def groups(self) -> Sequence[ParameterGroup]:
        return [
            ParameterGroup("first", tuple(self.first.parameters())),
            ParameterGroup("second", tuple(self.second.parameters()), self.factor),
        ]

    def after_step(self) -> None:
        self.steps += 1

    def attached(self, pipe: sf.Graph) -> sf.Graph:
        return pipe.bind(net=self.net)

    def save(self, path: str | Path, *, layout: Any = None, header: Mapping[str, str] | None = None) -> Path:
        torch.save(self.state_dict(), path)
        return Path(path)

    def load(self, path: str | Path) -> Any:
        return torch.load(path)


@dataclass(frozen=True)
class Points:
    names: Sequence[str]
    places: Sequence[int]
    scale: float = 1.0
    loads: list[str] = field(default_factory=list[str])

    def load(self) -> Mapping[str, Any]:
        self.loads.extend(self.names)
        rows = [[torch.sin(torch.tensor(float(int(name) * 3 + i))) for i in range(3)] for name in self.names]
        return {"points": torch.tensor(rows) * self.scale}


@dataclass(frozen=True)
class Shuffled:
    """Numbers in another order each epoch; the last batch has fewer rows."""

    count: int
    batch_size: int
    scales: Mapping[str, float] = field(default_factory=dict[str, float])

    def epoch(self, number: int) -> Sequence[Points]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(number)).tolist()
        starts = range(0, self.count, self.batch_size)
        return [
            Points(names, range(start, start + len(names)), max(self.scales.get(name, 1.0) for name in names))
            for start in starts
            if (names := [str(index) for index in order[start : start + self.batch_size]])
        ]


RECIPE = sf.Graph(add_noise=AddNoise(), predict=Predict(), loss=MeanSquared(), outputs=["loss", "losses", "random"])


@pytest.fixture
def make() -> Callable[..., Trainer]:
    """Make a trainer of the toy recipe. Settings are passed by name, with those of the net and of the data."""

    def made(
        *, count: int = 10, dropout: float = 0.0, factor: float = 2.0, scales: Mapping[str, float] | None = None,
        output: Path | None = None, pipe: sf.Graph | None = None, validation: Any = None, **settings: Any,
    ) -> Trainer:  # fmt: skip
        checked = TrainingSettings.of({"trackers": [], "steps": 8, "learning_rate": 0.05, **settings})
        batches = Shuffled(count, checked.batch_size, scales or {})
        return Trainer(RECIPE, Net(dropout, factor), batches, checked, output=output, pipe=pipe, validation=validation)

    return made
