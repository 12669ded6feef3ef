"""Image prompts for SD 3 and Flux beside the reference's IP-Adapters: one insert, the same pictures."""

import copy
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sfumato as sf
from sfumato import Graph, UnfitValue
from sfumato.blocks.control.image_prompt import ImagePrompt
from sfumato.components.image_processor import SiglipImageProcessor
from sfumato.components.models import FluxImagePromptAdapter, SD3ImagePromptAdapter

from .flux import SMALL, ReferenceFlux
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .flux import flux_reference as flux_reference
from .image_prompts import two_dicts, vision
from .sd3 import Reference3
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .sd3 import sd3_reference as sd3_reference
from .support import apart, picture, quiet, run

Load = Callable[..., Graph]
Same = Callable[..., object]
SIDE = 32
SIGLIP = {
    "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3, "image_size": SIDE,
    "patch_size": 8,
}  # fmt: skip
SD3_ADAPTER = {
    "image_width": 24, "hidden_dim": 24, "num_attention_heads": 2, "time_dim": 16, "num_tokens": 3, "width": 32,
    "attention_head_dim": 8, "num_layers": 3,
}  # fmt: skip
FLUX_ADAPTER = {"image_width": 24, "num_tokens": 4, "token_dim": 32, "width": 32, "num_layers": 2}
SD3_CALL: dict[str, Any] = {
    "prompt": "a fish", "num_inference_steps": 3, "height": 32, "width": 48, "max_sequence_length": 24,
    "seed": 7,
}  # fmt: skip
FLUX_CALL: dict[str, Any] = {**SMALL, "prompt": "a fish", "seed": 7}


class Prompted:
    """Both pipelines of a family, on one tiny checkpoint, with tiny image encoders."""

    def __init__(self, pipe: Graph, reference: Any, encoders: tuple[Any, Any, Any, Any], kind: Any, folder: Path):
        self.pipe, self.reference, self.kind, self.folder = pipe, reference, kind, folder
        self.their_encoder, self.encoder, self.their_processor, self.processor = encoders

    def adapter(self, seed: int = 0, **config: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            adapter = self.kind(**config).eval().requires_grad_(False)
            for parameter in adapter.parameters():
                nn.init.normal_(parameter, std=0.3)
        return adapter

    def ours(self, *adapters: Any, **config: Any) -> Graph:
        pipe = self.pipe
        for number in range(len(adapters)):
            block = ImagePrompt(**config)
            if number:
                names = "ip_adapter", "ip_adapter_image", "ip_adapter_scale"
                block = sf.named(block, **{name: f"{name}_{number}" for name in names})
            pipe = pipe.insert(f"face_{number}", block, before="denoise.guider")
        bound = {f"ip_adapter_{n}" if n else "ip_adapter": adapter for n, adapter in enumerate(adapters)}
        return pipe.bind(**bound, image_encoder=self.encoder, feature_extractor=self.processor)

    def theirs(self, *adapters: Any, scale: Any = 1.0) -> Any:
        """The reference, with a transformer of its own, since adapters change it."""
        made = copy.copy(self.reference)
        parts = {
            **made.pipe.components,
            "transformer": copy.deepcopy(made.pipe.transformer),
            "image_encoder": self.their_encoder,
            "feature_extractor": self.their_processor,
        }
        with quiet():
            made.pipe = type(made.pipe)(**parts)
            dicts = [two_dicts(adapter.state_dict()) for adapter in adapters]
            if self.kind is SD3ImagePromptAdapter:
                made.pipe.load_ip_adapter(*dicts)
            else:
                made.pipe.load_ip_adapter(dicts, [""] * len(dicts), [""] * len(dicts))
            made.pipe.set_ip_adapter_scale(scale)
        return made


@pytest.fixture(scope="module")
def in_sd3(sd3: Load, sd3_reference: Callable[..., Reference3], tmp_path_factory: pytest.TempPathFactory) -> Prompted:
    transformers: Any = import_module("transformers")
    folder = tmp_path_factory.mktemp("siglip")
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIGLIP)).eval().requires_grad_(False)
        theirs.save_pretrained(folder)
    ours = sf.models.SiglipVisionModel.from_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    encoders = theirs, ours, transformers.SiglipImageProcessor(size=size), SiglipImageProcessor(size=size)
    return Prompted(sd3("3.5 large"), sd3_reference("3.5 large"), encoders, SD3ImagePromptAdapter, folder)


@pytest.fixture(scope="module")
def in_flux(
    flux: Load, flux_reference: Callable[..., ReferenceFlux], tmp_path_factory: pytest.TempPathFactory
) -> Prompted:
    transformers: Any = import_module("transformers")
    folder = tmp_path_factory.mktemp("clip")
    theirs, ours, processor = vision(folder)
    their_processor = transformers.CLIPImageProcessor(size=SIDE, crop_size=SIDE)
    encoders = theirs, ours, their_processor, processor
    return Prompted(flux(), flux_reference(), encoders, FluxImagePromptAdapter, folder)


# ---------------------------------------------------------------------------------------------------------------- SD 3
@pytest.mark.parametrize("inputs", [
    {"guidance_scale": 1.0},
    {"negative_prompt": "blue", "guidance_scale": 4.0},
    {"prompt": ["a fish", "a cat"], "num_images_per_prompt": 2, "guidance_scale": 4.0, "seed": [3, 4, 5, 6]},
])  # fmt: skip
def test_sd3_with_a_picture_is_the_references(in_sd3: Prompted, same: Same, inputs: dict[str, Any]) -> None:
    adapter = in_sd3.adapter(**SD3_ADAPTER)
    given = {**SD3_CALL, **inputs, "ip_adapter_image": picture(3, SIDE, SIDE)}
    ours = run(in_sd3.ours(adapter), **given, ip_adapter_scale=0.7)
    same(ours, in_sd3.theirs(adapter, scale=0.7)(**given))
    assert apart(ours, run(in_sd3.pipe, **{**SD3_CALL, **inputs})).latents > 0.01


# ---------------------------------------------------------------------------------------------------------------- Flux
@pytest.mark.parametrize("inputs", [
    {},
    {"negative_prompt": "blue", "true_cfg_scale": 2.5},
    {"negative_prompt": "blue", "true_cfg_scale": 2.5, "negative_ip_adapter_image": picture(4, SIDE, SIDE)},
    {"prompt": ["a fish", "a cat"], "num_images_per_prompt": 2, "seed": [3, 4, 5, 6]},
])  # fmt: skip
def test_flux_with_a_picture_is_the_references(in_flux: Prompted, same: Same, inputs: dict[str, Any]) -> None:
    adapter = in_flux.adapter(**FLUX_ADAPTER)
    given = {**FLUX_CALL, **inputs, "ip_adapter_image": picture(3, SIDE, SIDE)}
    same(run(in_flux.ours(adapter), **given, ip_adapter_scale=0.7), in_flux.theirs(adapter, scale=0.7)(**given))


def test_flux_with_a_scale_for_each_block_is_the_references(in_flux: Prompted, same: Same) -> None:
    adapter = in_flux.adapter(**FLUX_ADAPTER)
    given = {**FLUX_CALL, "ip_adapter_image": picture(3, SIDE, SIDE)}
    ours = run(in_flux.ours(adapter), **given, ip_adapter_scale=(0.2, 0.9))
    same(ours, in_flux.theirs(adapter, scale=[0.2, 0.9])(**given))


def test_flux_with_two_adapters_is_the_references(in_flux: Prompted, same: Same) -> None:
    """The first reads two pictures together, the second one."""
    adapters = in_flux.adapter(0, **FLUX_ADAPTER), in_flux.adapter(1, **FLUX_ADAPTER)
    one, two, three = (picture(seed, SIDE, SIDE) for seed in (3, 4, 5))
    theirs = in_flux.theirs(*adapters, scale=[0.7, 0.4])(**FLUX_CALL, ip_adapter_image=[[one, two], three])
    first = {"ip_adapter_image": [one, two], "ip_adapter_scale": 0.7}
    second = {"ip_adapter_image_1": three, "ip_adapter_scale_1": 0.4}
    same(run(in_flux.ours(*adapters), **FLUX_CALL, **first, **second), theirs)


# ------------------------------------------------------------------------------------------------------------- loading
def saved(prompted: Prompted, name: str, adapter: Any) -> Path:
    """The adapter's file, with the image encoder in a folder beside it, as it is published."""
    folder = prompted.folder / name
    prompted.encoder.save_pretrained(folder / "image_encoder")
    save_file({key: tensor.contiguous() for key, tensor in adapter.state_dict().items()}, folder / "ip.safetensors")
    return folder / "ip.safetensors"


def test_sd3_is_loaded_with_a_file_and_the_encoder_beside_it(in_sd3: Prompted, sd3: Load, same: Same) -> None:
    adapter = in_sd3.adapter(**SD3_ADAPTER)
    pipe = sd3("3.5 large", ip_adapter=saved(in_sd3, "published", adapter))
    given = {**SD3_CALL, "ip_adapter_image": picture(3, SIDE, SIDE)}
    same(run(pipe, **given), run(in_sd3.ours(adapter), **given))


def test_flux_is_loaded_with_a_file_and_the_encoder_beside_it(in_flux: Prompted, flux: Load, same: Same) -> None:
    adapter = in_flux.adapter(**FLUX_ADAPTER)
    pipe = flux(ip_adapter=saved(in_flux, "published", adapter))
    given = {**FLUX_CALL, "ip_adapter_image": picture(3, SIDE, SIDE)}
    same(run(pipe, **given), run(in_flux.ours(adapter), **given))


# ------------------------------------------------------------------------------------------------------------- refusals
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too few scales": ({"ip_adapter_scale": (0.5,)}, "needs a number, or a list of 2"),
    "a table of a U-Net": ({"ip_adapter_scale": {"mid": 1.0}}, "needs a number, or a list of 2"),
    "features of another encoder": (
        {"ip_adapter_image": None, "ip_adapter_image_embeds": torch.zeros(1, 7)},
        "needs features of width 24, got 7. Pass the image encoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_unfit_inputs_are_refused(in_flux: Prompted, what: str) -> None:
    inputs, text = BAD[what]
    given = {**FLUX_CALL, "ip_adapter_image": picture(3, SIDE, SIDE), **inputs}
    with pytest.raises(UnfitValue, match=re.escape(text)):
        run(in_flux.ours(in_flux.adapter(**FLUX_ADAPTER)), **given)


def test_an_adapter_of_another_width_is_refused_before_the_run(in_flux: Prompted) -> None:
    with pytest.raises(sf.SfumatoError, match="width"):
        in_flux.ours(in_flux.adapter(**{**FLUX_ADAPTER, "width": 48}))


def test_an_adapter_of_another_family_is_refused(in_flux: Prompted, in_sd3: Prompted) -> None:
    pipe = in_flux.ours(in_sd3.adapter(**SD3_ADAPTER)).bind(image_encoder=in_sd3.encoder)
    with pytest.raises(UnfitValue, match=r"needs a SD3Transformer2DModel with .*, got a FluxTransformer2DModel"):
        run(pipe.bind(feature_extractor=in_sd3.processor), **FLUX_CALL, ip_adapter_image=picture(3, SIDE, SIDE))
