"""What components say of themselves before they are loaded."""

from collections.abc import Mapping
from typing import Any, cast

from ..components.handle import Handle
from ..components.spec import ComponentSpec


def read_config(component: Any) -> Mapping[str, Any]:  # whatever is bound
    """The config of a component: of the object, or read from the files that its spec names; {} where there is none."""
    if isinstance(component, Handle):
        component = component.spec
    if isinstance(component, ComponentSpec):
        return component.read_config()
    return cast(Mapping[str, Any], component.to_config()) if hasattr(component, "to_config") else {}


def pixels_a_latent(vae: Mapping[str, Any]) -> int:  # Any: JSON values
    """Pixels a side of a latent, as an autoencoder's config has them; 8 where it says nothing."""
    return 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)


def unet_settings(components: Mapping[str, Any]) -> dict[str, Any]:  # keywords of a preset function
    """Sizes and channels, as the configs of the U-Net and the autoencoder have them."""
    unet, vae = (read_config(components.get(name)) for name in ("unet", "vae"))
    factor = pixels_a_latent(vae)
    channels = vae.get("latent_channels", unet.get("out_channels", 4))
    found = {"factor": factor, "channels": channels, "unet_channels": unet.get("in_channels", channels)}
    found["distilled"] = unet.get("time_cond_proj_dim") is not None
    size = unet.get("sample_size")
    return {**found, "size": size * factor} if isinstance(size, int) else found
