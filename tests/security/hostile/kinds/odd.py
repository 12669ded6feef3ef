"""Values of JSON that no key expects."""

import random
from collections.abc import Iterator
from typing import Any

from .weights import CONTROL

ODD: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "1": 1,
    "3": 3,
    "7": 7,
    "10**5": 10**5,
    "10**9": 10**9,
    "2**31": 2**31,
    "2**63": 2**63,
    "10**30": 10**30,
    "1.5": 1.5,
    "1e308": 1e308,
    "1e-320": 1e-320,
    "not a number": float("nan"),
    "infinite": float("inf"),
    "a text": "x",
    "an empty text": "",
    "control characters": CONTROL,
    "a lone surrogate": "\ud800",
    "a path": "../../../../etc/passwd",
    "null": None,
    "true": True,
    "an empty list": [],
    "an empty object": {},
    "a list of lists": [[[[]]]],
    "a list of null": [None],
    "a list of texts": ["x", "y"],
    "a list of 0": [0, 0],
    "a list of -1": [-1, -1],
    "a list of 2**40": [2**40, 2**40],
    "a list of not a number": [float("nan"), 0.5],
    "a list of 10**5": [1] * 10**5,
    "a deep object": {"a": {"a": {"a": {"a": [{}] * 9}}}},
    "a long text": "x" * 10**6,
}


def changes(data: Any, chance: random.Random, most: int) -> Iterator[tuple[str, list[str | int], Any]]:
    """Places of a JSON value with odd values for them: a text that says it, the place, and the value."""
    for place in _places(data, []):
        for name in chance.sample([*ODD], min(most, len(ODD))):
            yield f"{'.'.join(map(str, place))} is {name}", place, ODD[name]


def _places(data: Any, at: list[str | int]) -> Iterator[list[str | int]]:
    if isinstance(data, dict):
        for key in data:
            yield [*at, key]
            yield from _places(data[key], [*at, key])
    elif isinstance(data, list):
        for number in range(len(data)):
            yield [*at, number]
            yield from _places(data[number], [*at, number])


def put(data: Any, place: list[str | int], value: Any) -> None:
    """Put a value in its place of a JSON value."""
    for part in place[:-1]:
        data = data[part]
    data[place[-1]] = value
