"""The latent space of a model, read from its config."""

from collections.abc import Mapping
from typing import Any

from ...graph.space import LatentSpace
from .plain_values import plain_values

_PACKED = ("FluxTransformer2DModel", "FluxControlNetModel")
"""Models that read packed latents: each token has the channels of 2 x 2 latents."""


def is_denoiser(name: str) -> bool:
    """Return whether a class name is that of a denoiser or of a control net, which read the same latents."""
    return name.startswith("UNet") or (name.endswith("Model") and ("Transformer" in name or "ControlNet" in name))


def space_of_config(name: str, config: Mapping[str, Any]) -> LatentSpace | None:  # Any: JSON values
    """Return the latent space of a model class with this config; None for a model without one."""
    config = plain_values(config)
    if is_denoiser(name):
        channels = latent_channels(name, config)
        return None if channels is None else LatentSpace(channels=channels)
    return autoencoder_space(name, config) if name.startswith("Autoencoder") else None


def autoencoder_space(name: str, config: Mapping[str, Any]) -> LatentSpace:
    """Return the latent space of an autoencoder class with this config."""
    config = plain_values(config)
    channels = config.get("latent_channels", config.get("z_dim", 4))
    channels = channels if isinstance(channels, int) else None
    if name != "AutoencoderKL":
        # A tiny autoencoder takes the latents of the denoiser without scaling.
        # Video autoencoders scale each channel by lists of means and deviations.
        return LatentSpace(channels=channels)
    scaling, shift = config.get("scaling_factor", 0.18215), config.get("shift_factor")
    # A null shift is published for no shift. It is a known zero, which SDXL's space has and Flux's has not.
    return LatentSpace(
        channels=channels,
        scaling=float(scaling) if isinstance(scaling, int | float) else None,
        shift=float(shift) if isinstance(shift, int | float) else 0.0,
    )


def latent_channels(name: str, config: Mapping[str, Any]) -> int | None:
    """Return the channels of the latents that a denoiser with this config predicts, or a control net reads."""
    out, taken = config.get("out_channels"), config.get("in_channels")
    if "ControlNet" in name:
        out = taken
    if name in _PACKED:
        packed = out or taken
        return packed // 4 if isinstance(packed, int) else None
    if not isinstance(out, int):
        return None
    # Denoisers that also predict a variance (DiT, PixArt) have twice as many output channels as input channels.
    return taken if isinstance(taken, int) and out == 2 * taken else out
