"""Shifts of the noise levels of flow matching, some by the size of the image (Esser et al. 2024)."""

from math import exp
from typing import Literal

from ...graph.errors import ConfigError
from .arrays import Floats


def shifted(levels: Floats, shift: float) -> Floats:
    """Move levels (0 to 1) towards noise, as larger images need: Esser et al. 2024, equation 23."""
    return shift * levels / (1 + (shift - 1) * levels)


def stretched(levels: Floats, terminal: float) -> Floats:
    """Stretch levels so that the last one is `terminal`, as LTX-Video does. Pure noise alone stays as it is."""
    clean = 1 - levels
    if not clean[-1]:
        return levels
    return 1 - clean * ((1 - terminal) / clean[-1])


def resolution_shift(
    scheduler: str,
    image_tokens: int | None,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    kind: Literal["exponential", "linear"] = "exponential",
) -> float:
    """The shift for an image of so many tokens: a line through two fitted points, in its logarithm if "exponential".

    scheduler: its class name, for the ConfigError where `image_tokens` is None.

    >>> round(resolution_shift("Flux", 4096), 3)
    3.158
    """
    if image_tokens is None:
        raise ConfigError(
            f"{scheduler} has use_dynamic_shifting, so its levels depend on the image's size. Pass "
            "steps(n, image_tokens=...), the tokens of the packed image, or set use_dynamic_shifting=False."
        )
    mu = base_shift + (max_shift - base_shift) * (image_tokens - base_tokens) / (max_tokens - base_tokens)
    return exp(mu) if kind == "exponential" else mu
