"""Image prompts for Stable Diffusion beside the reference's IP-Adapters: one insert, the same pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.control.image_prompt import ImagePrompt

from .image_prompts import Files, ImageReference, vision
from .support import Reference, picture, run

Same = Callable[..., object]
CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "height": 64, "width": 64, "seed": 0}


class Images:
    """Ours and the reference's, on one tiny checkpoint."""

    def __init__(self, pipe: Graph, theirs: ImageReference, encoder: Any, processor: Any, folder: Path) -> None:
        self.pipe, self.theirs, self.encoder, self.processor, self.folder = pipe, theirs, encoder, processor, folder

    def file(self, variant: str, seed: int = 0) -> tuple[dict[str, Tensor], Path]:
        tensors = Files(self.theirs.pipe.unet, seed)(variant)
        place = self.folder / f"{variant}_{seed}.safetensors"
        save_file(tensors, place)
        return tensors, place

    def ours(self, place: Path, **config: Any) -> Graph:
        adapter = sf.load_component(place, **({"config": config} if config else {}))
        prompted = self.pipe.insert("face", ImagePrompt(), before="denoise.guider").bind(ip_adapter=adapter)
        if adapter.reads:
            prompted = prompted.bind(image_encoder=self.encoder, feature_extractor=self.processor)
        return prompted


@pytest.fixture(scope="module")
def images(
    diffusers: Any, tiny: Callable[..., Graph], tiny_reference: Callable[[str], Reference],
    tmp_path_factory: pytest.TempPathFactory,
) -> Images:  # fmt: skip
    theirs, ours, processor = vision(tmp_path_factory.mktemp("encoder"))
    reference = ImageReference(diffusers, tiny_reference("sd").pipe, theirs)
    return Images(tiny("sd"), reference, ours, processor, tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_pictures_as_prompts_are_the_references(variant: str, images: Images, same: Same) -> None:
    tensors, place = images.file(variant)
    ours = run(images.ours(place), **CALL, ip_adapter_image=picture(3))
    theirs = images.theirs([tensors], **CALL, ip_adapter_image=picture(3))
    same(ours, theirs)
