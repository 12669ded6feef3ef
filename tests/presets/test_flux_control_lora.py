"""Control LoRAs of Flux beside the reference: the transformer reads twice as many channels with them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.components.adapters.names import names_of

from .flux import SMALL, TRANSFORMER
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .support import picture, quiet, run
from .test_flux_control import ReferenceDepth

Load = Callable[..., Graph]
Same = Callable[..., object]
GIVEN: Mapping[str, Any] = {**SMALL, "prompt": "a fish", "control_image": picture(5, 40, 70)}


def control_tensors() -> dict[str, Tensor]:
    """The tensors of a file as Black Forest Labs publish it: factors with biases, and whole scales of norms."""
    torch.manual_seed(2)
    names = names_of("FluxTransformer2DModel", TRANSFORMER)
    tensors: dict[str, Tensor] = {}
    for name, target in names.authors.items():
        out, *into = names.source_shape(target)
        if not into:
            tensors[f"{name}.scale"] = 1 + torch.randn(out) * 0.3
            continue
        columns = 2 * into[0] if name == "img_in" else into[0]
        tensors |= {
            f"{name}.lora_A.weight": torch.randn(4, columns) * 0.1,
            f"{name}.lora_B.weight": torch.randn(out, 4) * 0.1,
            f"{name}.lora_B.bias": torch.randn(out) * 0.1,
        }
    return tensors


def for_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in the names of diffusers, which reads the authors' names for a model of the published sizes alone."""
    names = names_of("FluxTransformer2DModel", TRANSFORMER)
    made: dict[str, Tensor] = {}
    for name, target in names.authors.items():
        if (scale := tensors.get(f"{name}.scale")) is not None:
            made[f"transformer.{target.layers[0]}.weight"] = scale
            continue
        down = tensors[f"{name}.lora_A.weight"]
        for end in ("lora_B.weight", "lora_B.bias"):
            rows = tensors[f"{name}.{end}"]
            rows = torch.cat([*reversed(rows.chunk(2))]) if target.how == "halves swapped" else rows
            for layer, piece in zip(
                target.layers, rows.split([names.shapes[n][0] for n in target.layers]), strict=True
            ):
                made |= {f"transformer.{layer}.{end}": piece, f"transformer.{layer}.lora_A.weight": down}
    return made


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_file(control_tensors(), file := tmp_path_factory.mktemp("control") / "canny.safetensors")
    return file


@pytest.mark.parametrize("task", ["text2image", "image2image"])
def test_the_picture_is_that_of_diffusers(
    diffusers: Any, flux: Load, flux_checkpoint: Callable[[str], Path], same: Same, control: Path, task: str
) -> None:
    given: dict[str, Any] = {**GIVEN, "num_images_per_prompt": 2}
    given |= {} if task == "text2image" else {"image": picture(6), "strength": 0.7}
    theirs = ReferenceDepth(diffusers, flux_checkpoint("dev"))
    with quiet():
        parts = {name: part for name, part in theirs.pipe.components.items() if part is not None}
        diffusers.FluxControlPipeline(**parts).load_lora_weights(for_diffusers(control_tensors()))
    pipe = flux("dev", task).with_adapters(sf.load_adapter(control))
    same(run(pipe, seed=3, **given), theirs(task, seed=3, **given))
