"""The moving average of the weights, and the weights with which pictures are drawn."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from .options import checked_options
from .settings import fit_fields, raise_problems


@dataclass(frozen=True, kw_only=True)
class EMA:
    """An exponential moving average: after each step, `average -= (1 - decay) * (average - weights)`.

    The decay rises with the steps: `(1 + n) / (10 + n)`, or `1 - (1 + n / inverse_gamma) ** -power` with `warmup`.
    `n` is the number of steps before this one and after the first `after` steps. While it is 0, the average is the
    weights themselves.
    """

    max_decay: Annotated[float, Ge(0), Le(1)] = 0.9999
    min_decay: Annotated[float, Ge(0), Le(1)] = 0.0
    after: Annotated[int, Ge(0)] = 0
    """The average starts after these steps."""
    warmup: bool = False
    inverse_gamma: float = 1.0
    power: float = 2 / 3

    def __post_init__(self) -> None:
        raise_problems("ema", fit_fields(self, "ema."))

    @classmethod
    def of(cls, setting: bool | Mapping[str, Any]) -> Self | None:  # Any: the checked options
        """The average of the setting `ema`: None for False."""
        if setting is False:
            return None
        return cls(**checked_options("ema", cls, {} if setting is True else setting))

    def decay(self, step: int) -> float:
        """The decay at a step; 1 is the first."""
        n = step - self.after - 1
        if n <= 0:
            return 0.0
        rising = 1 - (1 + n / self.inverse_gamma) ** -self.power if self.warmup else (1 + n) / (10 + n)
        return max(self.min_decay, min(rising, self.max_decay))

    @torch.no_grad()
    def update(self, average: Sequence[Tensor], weights: Sequence[Tensor], step: int) -> None:
        """Change the average in place, after a step; 1 is the first."""
        new = 1 - self.decay(step)
        for old, weight in zip(average, weights, strict=True):
            old.sub_((old - weight) * new)


@contextmanager
def weights_in(parameters: Iterable[nn.Parameter], weights: Iterable[Tensor]) -> Generator[None]:
    """Put other weights into parameters. At the end the parameters have their own again, to the bit."""
    with own_weights_after(parameters) as kept:
        _put(weights, kept)
        yield


@contextmanager
def own_weights_after(parameters: Iterable[nn.Parameter]) -> Generator[Sequence[nn.Parameter]]:
    """Keep the weights of parameters, and put them back at the end, to the bit."""
    listed = list(parameters)
    own = [parameter.detach().clone() for parameter in listed]
    try:
        yield listed
    finally:
        _put(own, listed)


@torch.no_grad()
def _put(weights: Iterable[Tensor], parameters: Iterable[nn.Parameter]) -> None:
    for parameter, weight in zip(parameters, weights, strict=True):
        parameter.copy_(weight)
