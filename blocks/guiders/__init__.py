"""Guiders: blocks that ask the denoiser several passes and make one prediction of the answers."""

from typing import TYPE_CHECKING, Any

from ...registry import guiders

if TYPE_CHECKING:
    from .cfg import ClassifierFreeGuidance as ClassifierFreeGuidance
    from .none import NoGuidance as NoGuidance


def __getattr__(name: str) -> Any:  # whichever guider the table has
    if name.startswith("_") or name not in guiders:
        raise AttributeError(f"There is no guider {name!r}; there are: {', '.join(guiders)}.")
    return guiders[name]


def __dir__() -> list[str]:
    return list(guiders)
