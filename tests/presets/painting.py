"""A graph that paints pictures of one colour, for tests of batches."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

import sfumato as sf
from sfumato import Block, Graph

Rows = list[dict[str, Any]]


class Drawn(NamedTuple):
    images: list[Image.Image]


DRAWN: list[tuple[Any, ...]] = []
"""The calls of `Paint`; a test clears it first."""


class Paint(Block):
    """A picture of one colour, made of the inputs."""

    random_without = ("seed",)

    def __call__(
        self, prompt: str | Sequence[str], seed: int | None = None, size: int = 4, image: Image.Image | None = None
    ) -> Drawn:
        DRAWN.append((prompt, seed, size))
        if prompt == "bad":
            raise sf.UnfitValue("A bad prompt.\n  It has two lines.")
        colour = (sum(map(ord, str(prompt))) % 256, (seed or 0) % 256, 0 if image is None else image.width)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        return Drawn([Image.new("RGB", (size, size), colour) for _ in prompts])


class Number(NamedTuple):
    number: int


class Nothing(Block):
    def __call__(self, prompt: str) -> Number:
        return Number(len(prompt))


PAINT = Graph(paint=Paint())


@pytest.fixture(autouse=True)
def nothing_drawn() -> Iterator[None]:
    """Begin with no calls."""
    DRAWN.clear()
    yield
    DRAWN.clear()


def lines(folder: Path, name: str = "manifest.jsonl") -> Rows:
    """The manifest."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
