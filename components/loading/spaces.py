"""The latent space and the layout of a component, read from config files alone."""

from pathlib import PurePosixPath

from pydantic import JsonValue

from ...graph.errors import LoadError
from ...graph.layout import Layout
from ...graph.space import LatentSpace
from ..models.layouts import CLASSES_WITH_LAYOUT, layout_of_config
from ..models.spaces import autoencoder_space, is_denoiser, latent_channels
from ..spec import ComponentSpec
from .single_file.checkpoint import open_checkpoint


def space_of(spec: ComponentSpec) -> LatentSpace | None:
    """The latent space of an autoencoder or denoiser; None for other components, and if no file names it.

    An autoencoder's config names it. A denoiser's config has the channels; the rest is read from the `vae/config.json`
    of the same pipeline. LoadError for a broken JSON file; None for a missing one, which `ready` reports.
    """
    name = spec.type_hint[1] if spec.type_hint else ""
    denoiser = is_denoiser(name)
    if not (denoiser or name.startswith("Autoencoder")):
        return None
    own = _own_config(spec)
    if own is None:
        return None
    if not denoiser:
        return autoencoder_space(name, own)
    vae_space = _vae_space(spec)
    channels = latent_channels(name, own)
    if vae_space is None:
        return None if channels is None else LatentSpace(channels=channels)
    return LatentSpace(vae_space.name, channels or vae_space.channels, vae_space.scaling, vae_space.shift)


def layout_of(spec: ComponentSpec) -> Layout | None:
    """The config keys that a model shares with a model that adds to it; None for a class that has none.

    Raises:
        LoadError: the config cannot be read.
    """
    name = spec.type_hint[1] if spec.type_hint else ""
    return layout_of_config(name, spec.read_config()) if name in CLASSES_WITH_LAYOUT else None


def _vae_space(spec: ComponentSpec) -> LatentSpace | None:
    # Without a subfolder the parent folder is not a pipeline, and a `vae` in it may belong to another one.
    if spec.pretrained_model_name_or_path is None or not spec.subfolder:
        return None
    if (file := spec.file) is not None:
        checkpoint = open_checkpoint(file, spec.access)
        return autoencoder_space("AutoencoderKL", checkpoint.config("vae")) if "vae" in checkpoint.models() else None
    vae = spec.using(subfolder=str(PurePosixPath(spec.subfolder).with_name("vae")), config=None)
    data = _own_config(vae)
    return None if data is None else autoencoder_space(str(data.get("_class_name", "AutoencoderKL")), data)


def _own_config(spec: ComponentSpec) -> dict[str, JsonValue] | None:
    """The config of a component; None if it has no file, which `ready` reports."""
    try:
        if spec.config is None and (
            spec.pretrained_model_name_or_path is None or "config.json" not in spec.location.names(spec.subfolder)
        ):
            return None
        return spec.read_config()
    except LoadError as error:
        raise LoadError(f"{spec}: {error}") from error
