"""Random numbers as a value: generator states that blocks take and give, so that draws come in graph order."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Random:
    """The states of CPU generators: one for all images, or one for each image.

    One state draws all rows in one go, many draw a row each, which is the order of draws of the reference for one
    generator and for a list of them. Drawing on the CPU gives the same picture on every device.
    """

    states: tuple[Tensor, ...]

    @classmethod
    def seeded(cls, seeds: Sequence[int]) -> "Random":
        """As `torch.Generator("cpu").manual_seed(seed)` for each seed."""
        return cls(tuple(torch.Generator("cpu").manual_seed(seed).get_state() for seed in seeds))

    @property
    def single(self) -> bool:
        """Whether one generator serves all rows."""
        return len(self.states) == 1

    def draw(self, rows: int, shape: Sequence[int]) -> tuple[Tensor, "Random"]:
        """Unit normal float32 noise (rows, *shape), and the states after it. With a state a row, `rows` must match."""
        if not self.single and rows != len(self.states):
            raise ValueError(
                f"There is one generator for each of {len(self.states)} images, but {rows} rows are drawn."
            )
        each = rows if self.single else 1
        drawn: list[Tensor] = []
        after: list[Tensor] = []
        for state in self.states:
            generator = torch.Generator("cpu")
            generator.set_state(state)
            drawn.append(torch.randn((each, *shape), generator=generator))
            after.append(generator.get_state())
        return (drawn[0] if self.single else torch.cat(drawn)), Random(tuple(after))
