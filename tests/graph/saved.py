"""Blocks of every kind of config, for graphs that go into files."""

import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sfumato.components.models import AutoencoderTiny
from sfumato.components.schedulers import EulerDiscreteScheduler
from sfumato.graph import Block, Graph, Loop, component, knob
from sfumato.registry import models


class X(NamedTuple):
    x: int


class XY(NamedTuple):
    x: int
    y: int


class Add(Block, name="files.Add"):
    n: int = 1

    def __call__(self, x: int) -> X:
        return X(x + self.n)


class AddItem(Block, name="files.AddItem"):
    scale: float = knob(2.0)

    def __call__(self, x: int, item: int) -> X:
        return X(x + item)


class Both(Block, name="files.Both"):
    def __call__(self, x: int, y: int = 3) -> XY:
        return XY(x, y)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Window:
    start: float = 0.0
    stop: float = 1.0
    tags: tuple[str, ...] = ()


class Much(Block, name="files.Much"):
    """Fields of every kind that a file holds."""

    text: str = "a"
    number: int | float | None = None
    pair: tuple[int, str] = (1, "b")
    many: tuple[tuple[float, ...], ...] = ()
    mode: Literal["fast", "good"] = "good"
    colour: Colour = Colour.RED
    window: Window | None = None
    table: Mapping[str, tuple[int, ...]] | None = None
    names: frozenset[str] = frozenset()
    place: Path | None = None
    inner: Block | None = None
    anything: Any = None

    def __call__(self, x: int) -> X:
        return X(x)


class NeedsSize(Block, name="files.NeedsSize"):
    size: int

    def __call__(self, x: int) -> X:
        return X(x)


class Function(Block, name="files.Function"):
    call: Callable[[int], int] | None = None

    def __call__(self, x: int) -> X:
        return X(x)


class Net:
    """A model as far as files care."""

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight

    def state_dict(self) -> dict[str, int]:
        return {"weight": self.weight}

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"weight": self.weight}))


models.add("FilesTestNet", Net)


class UseNet(Block, name="files.UseNet"):
    net: Net = component()

    def __call__(self, x: int) -> X:
        return X(x)


class UseAutoencoder(Block, name="files.UseAutoencoder"):
    vae: AutoencoderTiny = component()

    def __call__(self, x: int) -> X:
        return X(x)


class UseScheduler(Block, name="files.UseScheduler"):
    scheduler: EulerDiscreteScheduler = component()

    def __call__(self, x: int) -> X:
        return X(x)


def loop(**nodes: Block) -> Loop:
    return Loop(over="items", each="item", carry=("x",), body=Graph(nodes or {"add": AddItem()}))
