"""`decoder="tiny"`: the published tiny autoencoder (TAESD, O. Boer Bohan 2023) for a latent space."""

from collections.abc import Mapping
from typing import Any

from ..graph.errors import ConfigError, LoadError
from ..graph.space import LatentSpace
from ..registry import printable
from .handle import Handle
from .loading.component import load_problems
from .manager import default_manager
from .models.autoencoder_tiny import AutoencoderTiny
from .spec import ComponentSpec
from .storage.hub import Access

_REPOS: Mapping[LatentSpace, str] = {
    LatentSpace(None, 4, 0.18215, 0.0): "madebyollin/taesd",  # Stable Diffusion 1 and 2, PixArt Alpha
    LatentSpace(None, 4, 0.13025, 0.0): "madebyollin/taesdxl",  # SDXL, PixArt Sigma
    LatentSpace(None, 16, 1.5305, 0.0609): "madebyollin/taesd3",
    LatentSpace(None, 16, 0.3611, 0.1159): "madebyollin/taef1",
}
_FILES = "config.json and diffusion_pytorch_model.safetensors"


def tiny_autoencoder(current: Any) -> Any:  # an autoencoder, a handle of one, or None
    """A handle of the tiny autoencoder for the latent space of another autoencoder, with its manager, device and dtype.

    A tiny autoencoder is its own. Nothing but the small files of the repo is fetched.

    Raises:
        ConfigError: no tiny autoencoder is published for the latent space, or it is not known.
        LoadError: the files of the published one cannot be had.
    """
    kind = current.type if isinstance(current, Handle) else type(current)
    if isinstance(kind, type) and issubclass(kind, AutoencoderTiny):
        return current
    space = getattr(current, "space", None)
    if not isinstance(space, LatentSpace) or space.scaling is None:
        raise ConfigError(f'"tiny" needs the autoencoder of the graph, to know its latent space. {_way("…")}')
    repo = next((repo for known, repo in _REPOS.items() if known.fits(space)), None)
    if repo is None:
        raise ConfigError(f'no repo is known for "tiny" in this latent space ({space}). {_way("…")}')
    access = current.spec.access if isinstance(current, Handle) else Access()
    hint = ("diffusers", "AutoencoderTiny")
    spec = ComponentSpec(pretrained_model_name_or_path=repo, type_hint=hint).with_access(access)
    if problems := load_problems(spec):
        raise LoadError(
            f'"tiny" is {repo} here, which cannot be loaded: {printable(problems[0])} Get its files {_FILES} into a '
            f"folder. {_way('folder')}"
        )
    if isinstance(current, Handle):
        return current.manager.handle(spec.using(dtype=current.dtype), device=current.device, name="tiny")
    return default_manager().handle(spec, device=current.device, dtype=current.dtype, name="tiny")


def _way(folder: str) -> str:
    return f'Pass one in place of "tiny": sf.load_component("{folder}", "AutoencoderTiny").'
