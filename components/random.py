"""Random numbers as a value: blocks take generator states and return new ones, so that the graph orders all draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.errors import UnfitValue


@dataclass(frozen=True, eq=False)
class Random:
    """The states of CPU generators: one for all images, or one for each image.

    A single state draws all rows at once; several draw a row each. diffusers draws in the same order from one generator
    and from a list of them. Noise is drawn on the CPU, so a seed gives the same image on every device.
    """

    states: tuple[Tensor, ...]

    @classmethod
    def seeded(cls, seeds: Sequence[int]) -> "Random":
        """Make the state of `torch.Generator("cpu").manual_seed(seed)` for each seed."""
        return cls(tuple(torch.Generator("cpu").manual_seed(seed).get_state() for seed in seeds))

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
        drawn: list[Tensor] = []
        after: list[Tensor] = []
        for state in self.states:
            generator = torch.Generator("cpu")
            generator.set_state(state)
            drawn.append(torch.randn((each, *shape), generator=generator))
            after.append(generator.get_state())
        return (drawn[0] if self.single else torch.cat(drawn)), Random(tuple(after))
