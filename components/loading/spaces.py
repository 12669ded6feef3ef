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
    """The latent space of an autoencoder or denoiser; None for what has none, and where no file says it.

    An autoencoder's own config says it. A denoiser knows its channels, and takes the rest from the `vae/config.json`
    beside its folder. A broken JSON file is a LoadError; a missing one is just not known here (`ready` reports it).
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
    beside = _beside(spec)
    channels = latent_channels(name, own)
    if beside is None:
        return None if channels is None else LatentSpace(channels=channels)
    return LatentSpace(beside.name, channels or beside.channels, beside.scaling, beside.shift)


def layout_of(spec: ComponentSpec) -> Layout | None:
    """The config keys that a model shares with a model that adds to it; None for a class that has none.

    Raises:
        LoadError: the config cannot be read.
    """
    name = spec.type_hint[1] if spec.type_hint else ""
    return layout_of_config(name, spec.read_config()) if name in CLASSES_WITH_LAYOUT else None


def _beside(spec: ComponentSpec) -> LatentSpace | None:
    # Without a subfolder the parent is no pipeline folder of ours, and a `vae` in it may be anyone's.
    if spec.pretrained_model_name_or_path is None or not spec.subfolder:
        return None
    if (file := spec.file) is not None:
        found = open_checkpoint(file, spec.access)
        return autoencoder_space("AutoencoderKL", found.config("vae")) if "vae" in found.models() else None
    beside = spec.using(subfolder=str(PurePosixPath(spec.subfolder).with_name("vae")), config=None)
    data = _own_config(beside)
    return None if data is None else autoencoder_space(str(data.get("_class_name", "AutoencoderKL")), data)


def _own_config(spec: ComponentSpec) -> dict[str, JsonValue] | None:
    """The config of a component, or None where no file is there, which `ready` reports."""
    try:
        if spec.config is None and (
            spec.pretrained_model_name_or_path is None or "config.json" not in spec.location.names(spec.subfolder)
        ):
            return None
        return spec.read_config()
    except LoadError as error:
        raise LoadError(f"{spec}: {error}") from error
