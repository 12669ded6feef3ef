"""Random numbers of a training: a seed for each row, and the states of the generators of the process."""

import random
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch


def row_seeds(seed: int, epoch: int | str, places: Sequence[int]) -> list[int]:
    """A seed for each row of a batch.

    Args:
        seed: that of the training.
        epoch: the number of the epoch, or the name of another set of samples.
        places: the places of the samples in the epoch.
    """
    return [_seed(f"{seed} {epoch} {place}") for place in places]


def _seed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_generators(seed: int) -> None:
    """Seed the generators of this process, which dropout draws from."""
    torch.manual_seed(seed)
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def generator_states() -> dict[str, Any]:  # values that can be stored
    """The states of the generators of this process: Python's, numpy's, and torch's on each device."""
    states: dict[str, Any] = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if (numpy := sys.modules.get("numpy")) is not None:
        states["numpy"] = numpy.random.get_state()
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_generator_states(states: Mapping[str, Any]) -> None:  # of `generator_states`
    """Set the states; those of devices that this machine lacks are left out."""
    random.setstate(states["python"])
    torch.set_rng_state(states["cpu"])
    if "numpy" in states and (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.set_state(states["numpy"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


@contextmanager
def kept_generators() -> Generator[None]:
    """Set the generators of this process back to their present states at the end."""
    states = generator_states()
    try:
        yield
    finally:
        set_generator_states(states)
