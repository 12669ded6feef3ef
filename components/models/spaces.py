"""Which latent space a model works in, as its config tells."""

from collections.abc import Mapping
from typing import Any

from ...graph.space import LatentSpace

_PACKED = ("FluxTransformer2DModel", "FluxControlNetModel")
"""Models whose channels are those of 2 x 2 latents."""


def is_denoiser(name: str) -> bool:
    """Whether a published class name is a denoiser's, or a control net's, which reads the same latents."""
    return name.startswith("UNet") or (name.endswith("Model") and ("Transformer" in name or "ControlNet" in name))


def space_of_config(name: str, config: Mapping[str, Any]) -> LatentSpace | None:  # Any: JSON values
    """The latent space of a model class with this config; None for what has none."""
    if is_denoiser(name):
        channels = latent_channels(name, config)
        return None if channels is None else LatentSpace(channels=channels)
    return autoencoder_space(name, config) if name.startswith("Autoencoder") else None


def autoencoder_space(name: str, config: Mapping[str, Any]) -> LatentSpace:
    """The latent space of an autoencoder class with this config."""
    channels = config.get("latent_channels", config.get("z_dim", 4))
    channels = channels if isinstance(channels, int) else None
    if name != "AutoencoderKL":
        # A tiny autoencoder takes latents as the denoiser gives them, whatever its teacher's scaling.
        # Video autoencoders scale each channel by lists of means and deviations.
        return LatentSpace(channels=channels)
    scaling, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor")
    # A null shift is published for "no shift": a known zero, which tells SDXL's space from Flux's.
    return LatentSpace(
        channels=channels,
        scaling=float(scaling) if isinstance(scaling, int | float) else None,
        shift=float(shift) if isinstance(shift, int | float) else 0.0,
    )


def latent_channels(name: str, config: Mapping[str, Any]) -> int | None:
    """The channels of the latents that a denoiser class with this config gives, or a control net takes."""
    out, given = config.get("out_channels"), config.get("in_channels")
    if "ControlNet" in name:
        out = given
    if name in _PACKED:
        packed = out or given
        return packed // 4 if isinstance(packed, int) else None
    if not isinstance(out, int):
        return None
    # Denoisers that also learn a variance (DiT, PixArt) give twice the channels they take.
    return given if isinstance(given, int) and out == 2 * given else out
