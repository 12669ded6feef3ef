"""Random numbers as a value: blocks take generator states and return new ones, so that the graph orders all draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import torch
from torch import Tensor

from ..graph.errors import UnfitValue
from .philox import normal

Noise = Literal["cpu", "gpu"]
"""Whose generator draws: torch's on a CPU, or torch's on a CUDA device, which is repeated here on the CPU."""


@dataclass(frozen=True, eq=False)
class Random:
    """The states of generators: one for all images, or one for each image.

    A single state draws all rows at once; several draw a row each. diffusers draws in the same order from one generator
    and from a list of them. Noise is drawn on the CPU, so a seed gives the same image on every device.
    """

    states: tuple[Tensor, ...]
    noise: Noise = "cpu"

    @classmethod
    def seeded(cls, seeds: Sequence[int], noise: Noise = "cpu") -> "Random":
        """Make the state of `torch.Generator(noise).manual_seed(seed)` for each seed."""
        return cls(tuple(_SEEDED[noise](seed) for seed in seeds), noise)

    @property
    def single(self) -> bool:
        """Whether one generator serves all rows."""
        return len(self.states) == 1

    def draw(self, rows: int, shape: Sequence[int]) -> tuple[Tensor, "Random"]:
        """Draw float32 noise (rows, *shape) of unit variance; return it, and the states after it.

        Raises:
            UnfitValue: another number of rows than of states, where each row has its own.
        """
        if not self.single and rows != len(self.states):
            raise UnfitValue(f"Needs one seed for all images, or one for each of {rows}, got {len(self.states)} seeds.")
        each = rows if self.single else 1
        drawn, after = zip(*(_DRAWN[self.noise](state, (each, *shape)) for state in self.states), strict=True)
        return (drawn[0] if self.single else torch.cat(drawn)), replace(self, states=after)

    def uniform(self, rows: int) -> tuple[Tensor, "Random"]:
        """Draw a float32 number in [0, 1) for each row: (rows,). Raises as `integers`."""
        return self._numbers(rows, lambda count, generator: torch.rand(count, generator=generator))

    def integers(self, rows: int, below: int) -> tuple[Tensor, "Random"]:
        """Draw a whole number from 0 to below - 1 for each row: (rows,), int64.

        Raises:
            UnfitValue: another number of rows than of states, where each row has its own; `noise="gpu"`.
        """
        return self._numbers(rows, lambda count, generator: torch.randint(0, below, (count,), generator=generator))

    def _numbers(self, rows: int, draw: Callable[[int, torch.Generator], Tensor]) -> tuple[Tensor, "Random"]:
        if self.noise != "cpu":
            raise UnfitValue('Random numbers of a CUDA device (noise="gpu") are noise alone. Use noise="cpu".')
        if not self.single and rows != len(self.states):
            raise UnfitValue(f"Needs one seed for all rows, or one for each of {rows}, got {len(self.states)} seeds.")
        drawn: list[Tensor] = []
        after: list[Tensor] = []
        for state in self.states:
            generator = torch.Generator("cpu")
            generator.set_state(state)
            drawn.append(draw(rows if self.single else 1, generator))
            after.append(generator.get_state())
        return torch.cat(drawn), replace(self, states=tuple(after))

    def check(self) -> None:
        """Raise RuntimeError or ValueError for states that no generator has."""
        for state in self.states:
            _CHECKS[self.noise](state)


# ------------------------------------------------------------------------------------------------ torch's on a CPU
def _cpu_seeded(seed: int) -> Tensor:
    return torch.Generator("cpu").manual_seed(seed).get_state()


def _cpu_drawn(state: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cpu")
    generator.set_state(state)
    return torch.randn(tuple(shape), generator=generator), generator.get_state()


def _check_cpu(state: Tensor) -> None:
    torch.Generator("cpu").set_state(state.cpu())


# ------------------------------------------------------------------------------------------------ torch's on CUDA
def _gpu_seeded(seed: int) -> Tensor:
    """The seed as a number of 64 bits, and the draws until now."""
    seed %= 2**64
    return torch.tensor([seed - 2**64 if seed >= 2**63 else seed, 0])


def _gpu_drawn(state: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    seed, calls = (int(number) for number in state)
    numbers = torch.from_numpy(normal(seed % 2**64, calls, prod(shape)))
    return numbers.reshape(tuple(shape)), torch.tensor([seed, calls + 1])


def _check_gpu(state: Tensor) -> None:
    if state.dtype != torch.int64 or state.shape != (2,) or not 0 <= int(state[1]) < 2**62:
        raise ValueError("is no state of a generator: needs a seed and a number of draws")


_SEEDED: Mapping[Noise, Callable[[int], Tensor]] = {"cpu": _cpu_seeded, "gpu": _gpu_seeded}
_DRAWN: Mapping[Noise, Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]]] = {
    "cpu": _cpu_drawn, "gpu": _gpu_drawn,
}  # fmt: skip
_CHECKS: Mapping[Noise, Callable[[Tensor], None]] = {"cpu": _check_cpu, "gpu": _check_gpu}
