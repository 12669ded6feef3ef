"""Straight paths between clean and noise: flow matching (Lipman et al. 2023; Esser et al. 2024)."""

from math import exp
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...graph.errors import ConfigError

Floats = NDArray[np.floating[Any]]  # Any: float32 or float64, numpy's own way to say it


def shifted(levels: Floats, shift: float) -> Floats:
    """More levels near noise, as larger pictures need: Esser et al. 2024, equation 23."""
    return shift * levels / (1 + (shift - 1) * levels)


def stretched(levels: Floats, terminal: float) -> Floats:
    """Levels stretched so that the last one is `terminal`, as LTX-Video does."""
    clean = 1 - levels
    return 1 - clean * ((1 - terminal) / clean[-1])


def resolution_shift(
    where: str,
    image_tokens: int | None,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    kind: Literal["exponential", "linear"] = "exponential",
) -> float:
    """The shift for a picture of so many tokens: a line through two fitted points, in its logarithm if "exponential".

    >>> round(resolution_shift("Flux", 4096), 3)
    3.158
    """
    if image_tokens is None:
        raise ConfigError(
            f"{where} has use_dynamic_shifting, so its levels depend on the picture's size. Give steps(n, "
            "image_tokens=...), the rows of the packed image, or set use_dynamic_shifting=False."
        )
    mu = base_shift + (max_shift - base_shift) * (image_tokens - base_tokens) / (max_tokens - base_tokens)
    return exp(mu) if kind == "exponential" else mu
