"""Models written into one file under the names of its authors: what `checkpoint` reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ....graph.errors import LoadError
from ....registry import did_you_mean
from ...storage.weights import write_atomically
from . import latent_diffusion, transformers
from .checkpoint import FAMILIES, knowledge_of
from .tables import Row, ties, written


def write_checkpoint(file: str | Path, family: str, models: Mapping[str, Any]) -> Path:  # models of ours, by name
    """Write the models of a pipeline ("unet", "vae", "text_encoder" …) as one safetensors file in original layout.

    `family` is one of those in `families/` ("sd1", "sdxl" …). The file appears whole or not at all. LoadError for a
    model that the family's files have no place for.
    """
    known = [path.stem for path in FAMILIES.glob("*.json")]
    if family not in known:
        raise LoadError(f"No family {family!r} is written as one file. {did_you_mean(family, sorted(known))}")
    told = knowledge_of(family)["models"]
    tensors: dict[str, Tensor] = {}
    for name, model in models.items():
        if name not in told:
            raise LoadError(f"Files of {family} have no {name}. {did_you_mean(name, told)}")
        state = {key: tensor.detach() for key, tensor in model.state_dict().items()}
        rows = _rows(told[name]["kind"], model.to_config())
        tensors |= written(state, ties(state, rows, told[name]["prefix"]))
    place = Path(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    return place


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
