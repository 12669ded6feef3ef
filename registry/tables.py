"""The tables of this library. Values are import paths, so that reading a name imports nothing."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .names import Names, UnknownName, did_you_mean

_SCHEDULERS = "sfumato.components.schedulers"
_MODELS = "sfumato.components.models"

schedulers = Names(
    "scheduler",
    {
        "DDIMScheduler": f"{_SCHEDULERS}.ddim:DDIMScheduler",
        "DDPMScheduler": f"{_SCHEDULERS}.ddpm:DDPMScheduler",
        "EulerDiscreteScheduler": f"{_SCHEDULERS}.euler:EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler": f"{_SCHEDULERS}.euler:EulerAncestralDiscreteScheduler",
    },
    aliases={
        "ddim": "DDIMScheduler",
        "ddpm": "DDPMScheduler",
        "euler": "EulerDiscreteScheduler",
        "euler_a": "EulerAncestralDiscreteScheduler",
        "euler_ancestral": "EulerAncestralDiscreteScheduler",
    },
)
guiders = Names("guider")
models = Names(
    "model",
    {
        "UNet2DConditionModel": f"{_MODELS}.unet_2d_condition:UNet2DConditionModel",
        "AutoencoderKL": f"{_MODELS}.autoencoder_kl:AutoencoderKL",
        "AutoencoderTiny": f"{_MODELS}.autoencoder_tiny:AutoencoderTiny",
    },
)
blocks = Names("block")
presets = Names("preset")

native: dict[tuple[str, str], str] = {
    # Read by our own light classes from the same files: importing transformers' model zoo costs 2.4 s (decision 0002).
    ("transformers", "CLIPTextModel"): f"{_MODELS}.clip:CLIPTextModel",
    ("transformers", "CLIPTextModelWithProjection"): f"{_MODELS}.clip:CLIPTextModelWithProjection",
    ("transformers", "CLIPTokenizer"): "sfumato.components.loading.tokenizer:CLIPTokenizer",
    ("transformers", "CLIPTokenizerFast"): "sfumato.components.loading.tokenizer:CLIPTokenizer",
}
"""Hints that this library reads itself. The value is a "module:attribute" path."""

_BY_SLOT = {"scheduler": schedulers, "guider": guiders, "model": models, "block": blocks, "preset": presets}


def table(kind: str) -> Names | None:
    """The table whose entries fit a slot or component called `kind` ("guider", "scheduler" …), if there is one."""
    return _BY_SLOT.get(kind)


def resolve(hint: Sequence[str]) -> Any:
    """The class that a `["library", "Class"]` type hint of an index file stands for.

    "diffusers" and "sfumato" hints give our class of that published name, "transformers" hints give theirs.
    Any other library is refused, and nothing is imported for it.
    """
    library, name = hint
    if library in ("diffusers", "sfumato"):
        for names in (models, schedulers, guiders):
            if (found := names.find(name)) is not None:
                return found
        known = [*models, *schedulers, *guiders]
        raise UnknownName(f"No class {name!r} is here for the hint {list(hint)}. {did_you_mean(name, known)}")
    if library == "transformers":
        if name.isidentifier() and not name.startswith("_"):
            found = getattr(import_module("transformers"), name, None)
            if isinstance(found, type) and hasattr(found, "from_pretrained"):
                return found
        raise UnknownName(f"transformers has no class {name!r} that can be loaded, which the hint {list(hint)} names.")
    raise UnknownName(
        f"The hint {list(hint)} names the library {library!r}. Only 'diffusers', 'sfumato' and 'transformers' are "
        "looked up. Bind an object of your own instead: graph.bind(name=object)."
    )
