"""Checks that the IP-Adapters of transformers share."""

from typing import Any

from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .base import Model


def check_blocks(adapter: Model[Any], model: nn.Module, kind: type[Model[Any]], *keys: str) -> None:
    """Compare the blocks that an adapter was trained on with those of a denoiser.

    Args:
        adapter: an adapter.
        model: the denoiser.
        kind: the class that it needs to have.
        keys: of both configs, whose values need to be equal.

    Raises:
        UnfitValue: a denoiser of another class, or with other values.
    """
    needed, found = (
        ", ".join(f"{key} {getattr(config, key, None)}" for key in keys)
        for config in (adapter.config, getattr(model, "config", None))
    )
    if isinstance(model, kind) and needed == found:
        return
    got = f" with {found}" if isinstance(model, kind) else ""
    raise UnfitValue(
        f"This {type(adapter).__name__} needs a {kind.__name__} with {needed}, got a {type(model).__name__}{got}. "
        "Use an IP-Adapter of this model."
    )


def checked_features(adapter: Model[Any], features: Tensor | None, width: int) -> Tensor:
    """Return features of an image encoder on the adapter's device.

    Raises:
        UnfitValue: features of another width.
    """
    assert features is not None  # the block refuses it
    if features.shape[-1] != width:
        raise UnfitValue(
            f"The {type(adapter).__name__} needs features of width {width}, got {features.shape[-1]}. Pass the image "
            "encoder that it was trained with."
        )
    return features.to(adapter.device, adapter.dtype)
