"""Image prompts for SDXL beside the reference's IP-Adapters: the same pictures for each variant that it reads."""

from collections.abc import Callable
from typing import Any

import pytest

from sfumato import Graph

from .image_prompts import FACES, ImageReference, Images, of_diffusers, vision
from .sdxl import ReferenceXL
from .support import picture, run

Same = Callable[..., object]
CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "height": 64, "width": 64, "seed": 0}


@pytest.fixture(scope="module")
def images(
    diffusers: Any, xl: Callable[..., Graph], xl_reference: Callable[[str], ReferenceXL],
    tmp_path_factory: pytest.TempPathFactory,
) -> Images:  # fmt: skip
    theirs, ours, processor = vision(tmp_path_factory.mktemp("encoder"))
    reference = ImageReference(diffusers, xl_reference("base").pipe, theirs)
    return Images(xl("base"), reference, ours, processor, tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_pictures_as_prompts_are_the_references(variant: str, images: Images, same: Same) -> None:
    """Plus Face has the tensors of Plus."""
    tensors, place = images.file(variant)
    ours = run(images.ours(place), **CALL, ip_adapter_image=picture(3))
    same(ours, images.theirs([tensors], **CALL, ip_adapter_image=picture(3)))
    assert abs(ours.latents - run(images.pipe, **CALL).latents).max() > 1e-3


@pytest.mark.parametrize("variant", ["face", "face_lora"])
def test_embeddings_of_faces_are_prompts(variant: str, images: Images, same: Same) -> None:
    tensors, place = images.file(variant)
    theirs = images.theirs([tensors], **CALL, ip_adapter_image_embeds=of_diffusers(FACES))
    same(run(images.ours(place), **CALL, ip_adapter_image_embeds=FACES[0]), theirs)


@pytest.mark.parametrize("second", [False, True])
def test_face_plus_reads_the_face_and_its_picture(second: bool, images: Images, same: Same) -> None:
    tensors, place = images.file("face_plus_lora")

    def add_picture(pipe: Any) -> None:
        projector = pipe.unet.encoder_hid_proj.image_projection_layers[0]
        projector.clip_embeds = pipe.prepare_ip_adapter_image_embeds([[picture(3)]], None, "cpu", 1, True)[0]
        projector.shortcut = second

    theirs = images.theirs([tensors], before=add_picture, **CALL, ip_adapter_image_embeds=of_diffusers(FACES))
    pipe = images.ours(place, shortcut=second)
    same(run(pipe, **CALL, ip_adapter_image_embeds=FACES, ip_adapter_image=picture(3)), theirs)


TABLE = {"down": {"block_1": [0.7]}, "up": {"block_0": [0.0, 1.0]}}
"""InstantStyle sets single layers: the layout is in `down`, the style in `up`."""


@pytest.mark.parametrize("inputs", [{"scale": TABLE}, {"prompt": ["a red apple", "a small cat"]}], ids=["table", "two"])
def test_calls_are_the_references(inputs: dict[str, Any], images: Images, same: Same) -> None:
    tensors, place = images.file("plus")
    call: dict[str, Any] = {**CALL, "ip_adapter_image": picture(3)}
    ours = {"ip_adapter_scale" if name == "scale" else name: value for name, value in inputs.items()}
    same(run(images.ours(place), **{**call, **ours}), images.theirs([tensors], **{**call, **inputs}))
