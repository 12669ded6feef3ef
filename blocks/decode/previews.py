"""Previews: what latents look like, before they are decoded."""

from collections.abc import Mapping
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...components.models.autoencoder import Autoencoder, upcast_vae
from ...components.models.autoencoder_tiny import AutoencoderTiny
from ...graph import ConfigError, Lazy
from ...graph.errors import Cancelled
from ...graph.space import LatentSpace
from .colours import colours_of
from .images import pictures

if TYPE_CHECKING:
    from PIL import Image


@torch.no_grad()
def preview(latents: Tensor, components: Mapping[str, Any], vae: Any = None) -> "list[Image.Image]":
    """Pictures of clean latents `b c h w`, at the size of the result.

    Args:
        latents: clean ones, scaled by the autoencoder's factor to unit variance.
        components: those of the graph, by name: they have the latent space, and may have a tiny autoencoder.
        vae: an autoencoder, or a handle of one; None for a tiny one among the components, or else a matrix.
    """
    if vae is not None:
        return pictures(_decoded(latents, vae))
    for tiny in components.values():
        if _is_tiny(tiny) and (pixels := _decoded_at_once(latents, tiny)) is not None:
            return pictures(pixels)
    space = _space(latents, components)
    if (colours := colours_of(space)) is None:
        way = "Pass an autoencoder: event.preview(vae=…)."
        raise ConfigError(f"There is no matrix from this latent space ({space}) to colours, so no preview. {way}")
    matrix, offset = (torch.tensor(part, device=latents.device) for part in colours)
    pixels = torch.einsum("bchw,cr->brhw", latents.float(), matrix) + offset[:, None, None]
    height, width = (8 * side for side in latents.shape[2:])  # all families of the table have 8 pixels a latent
    return [small.resize((width, height), resample=2) for small in pictures(_unit(pixels))]  # 2 is bilinear


def _is_tiny(component: Any) -> bool:
    kind = component.type if isinstance(component, Lazy) else type(component)
    return isinstance(kind, type) and issubclass(kind, AutoencoderTiny)


def _decoded_at_once(latents: Tensor, vae: Any) -> Tensor | None:
    """The pixels, or None where the autoencoder would have to wait for memory that other runs have."""
    if not isinstance(vae, Lazy) or vae.lender is None:
        return _decoded(latents, vae)
    never_wait = Event()
    never_wait.set()
    try:
        lease = vae.lender.lease(vae.leased, "a preview", never_wait)
    except Cancelled:
        return None
    try:
        return _decoded(latents, vae)
    finally:
        lease.release()


def _decoded(latents: Tensor, vae: Any) -> Tensor:
    vae = vae.load() if isinstance(vae, Lazy) else vae
    if not isinstance(vae, Autoencoder):
        raise ConfigError(f"A preview needs an autoencoder, got {type(vae).__name__}. Pass vae=sf.load_component(…).")
    vae = upcast_vae(vae)
    return _unit(vae.decode(vae.unscale(latents.to(vae.device, vae.dtype))).float())


def _unit(pixels: Tensor) -> Tensor:
    """Pixels from [-1, 1] to [0, 1]; one that is not a number is black."""
    return pixels.add(1).div(2).clamp(0, 1).nan_to_num(0.0)


def _space(latents: Tensor, components: Mapping[str, Any]) -> LatentSpace:
    """The latent space of the components; of several, the first that has a scaling and as many channels."""
    spaces = [space for part in components.values() if isinstance(space := getattr(part, "space", None), LatentSpace)]
    channels = latents.shape[1]
    fitting = [space for space in spaces if space.channels == channels and space.scaling is not None]
    return fitting[0] if fitting else LatentSpace(channels=channels)
