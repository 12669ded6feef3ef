"""What a hostile input is, and the table of all kinds."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

Action = Callable[[], object]
"""What a user does with the input. It returns what was accepted, or raises the refusal."""


@dataclass(frozen=True)
class Hostile:
    """One input: a name, and a function that writes its files to an empty folder and returns what a user then does."""

    name: str
    make: Callable[[Path], Action]


KINDS = (
    "weights",
    "shards",
    "single_files",
    "pickles",
    "gguf",
    "configs",
    "indexes",
    "tokenizers",
    "graphs",
    "calls",
    "pictures",
    "hub_answers",
    "command_lines",
    "places",
)
SEED = os.environ.get("SFUMATO_HOSTILE_SEED", "0")
"""Another seed draws other numbers and other bytes, for long searches."""


LONG = bool(os.environ.get("SFUMATO_EXAMPLES"))
"""Whether to try as many random inputs as in a long search."""


def repeats(most: int) -> range:
    """The numbers of inputs that are made at random in one way; a third of them by default."""
    return range(most if LONG else -(-most // 3))


def some(most: int) -> int:
    """The number of odd values that are drawn for one place; half of them by default."""
    return most if LONG else -(-most // 2)


def inputs(kind: str) -> dict[str, Hostile]:
    """The inputs of a kind by their names, the same in each process with the same seed."""
    made: Iterator[Hostile] = import_module(f".kinds.{kind}", __package__).inputs()
    table: dict[str, Hostile] = {}
    for one in made:
        assert one.name not in table, f"{kind}: two inputs are called {one.name!r}"
        table[one.name] = one
    return table


def drawn(name: str) -> random.Random:
    """Random numbers that depend on the seed and on this name alone."""
    return random.Random(f"{SEED}|{name}")
