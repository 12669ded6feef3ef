"""Write models into one file in the layout of their authors, which `checkpoint` reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ....graph.errors import SaveError
from ....graph.saving import saving_file
from ....registry import did_you_mean
from ...storage.weights import write_safetensors
from . import latent_diffusion, transformers
from .checkpoint import FAMILIES, facts_of
from .tables import Row, file_tensors, ties


def write_checkpoint(file: str | Path, family: str, models: Mapping[str, Any]) -> Path:  # models of ours, by name
    """Write the models of a pipeline ("unet", "vae", "text_encoder" …) as one safetensors file in original layout.

    The file appears whole or not at all.

    Args:
        file: the path to write.
        family: a name in `families/` ("sd1", "sdxl" …).
        models: our models, by the names of the pipeline.

    Returns:
        The path.

    Raises:
        SaveError: an unknown family, a model that files of the family do not have, or a file that cannot be written.
    """
    known = [path.stem for path in FAMILIES.glob("*.json")]
    if family not in known:
        raise SaveError(f"Cannot write the family {family!r} as one file. {did_you_mean(family, sorted(known))}")
    known_models = facts_of(family)["models"]
    tensors: dict[str, Tensor] = {}
    for name, model in models.items():
        if name not in known_models:
            raise SaveError(f"Files of {family} have no {name}. {did_you_mean(name, known_models)}")
        state = {key: tensor.detach() for key, tensor in model.state_dict().items()}
        rows = _rows(known_models[name]["kind"], model.to_config())
        tensors |= file_tensors(state, ties(state, rows, known_models[name]["prefix"]))
    with saving_file(file) as draft:
        write_safetensors(tensors, draft, {"format": "pt"})
    return Path(file)


def _rows(kind: str, config: Mapping[str, Any]) -> "list[Row] | tuple[Row, ...]":  # a config.json
    match kind:
        case "unet":
            return latent_diffusion.unet(config)
        case "vae":
            return latent_diffusion.vae(config)
        case "open_clip":
            return latent_diffusion.open_clip(config["num_hidden_layers"])
        case "flux":
            return transformers.flux(max(config["num_layers"], config["num_single_layers"]))
        case "sd3":
            return transformers.sd3(config["num_layers"])
        case _:
            return ()
