"""Image prompts for Stable Diffusion beside the reference's IP-Adapters: one insert, the same pictures."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.control.image_prompt import ImagePrompt
from sfumato.presets.control import numbered

from .image_prompts import FACE, FACES, ImageReference, Images, of_diffusers, two_dicts, vision
from .support import Reference, counted, half, picture, run
from .test_together import PIXELS

Same = Callable[..., object]
CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "height": 64, "width": 64, "seed": 0}


@pytest.fixture(scope="module")
def images(
    diffusers: Any, tiny: Callable[..., Graph], tiny_reference: Callable[[str], Reference],
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Images:  # fmt: skip
    theirs, ours, processor = vision(tmp_path_factory.mktemp("encoder"))
    reference = ImageReference(diffusers, tiny_reference("sd").pipe, theirs)
    made = Images(tiny("sd"), reference, ours, processor, tmp_path_factory.mktemp("adapters"))
    made.checkpoint = checkpoint("sd")
    return made


@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_pictures_as_prompts_are_the_references(variant: str, images: Images, same: Same) -> None:
    tensors, place = images.file(variant)
    ours = run(images.ours(place), **CALL, ip_adapter_image=picture(3))
    theirs = images.theirs([tensors], **CALL, ip_adapter_image=picture(3))
    same(ours, theirs)


@pytest.mark.parametrize("variant", ["face", "portrait", "face_lora"])
def test_embeddings_of_faces_are_prompts(variant: str, images: Images, same: Same) -> None:
    tensors, place = images.file(variant)
    theirs = images.theirs([tensors], **CALL, ip_adapter_image_embeds=of_diffusers(FACES))
    same(run(images.ours(place), **CALL, ip_adapter_image_embeds=FACES[0]), theirs)
    same(run(images.ours(place), **CALL, ip_adapter_image_embeds=of_diffusers(FACES)), theirs)


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


TABLE = {"down": {"block_0": [0.7]}, "up": {"block_1": [0.0, 1.0]}}


def equal(**inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same inputs for ours and for the reference."""
    return inputs, inputs


CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "several pictures": (
        {"ip_adapter_image": [picture(3), picture(4)]},
        {"ip_adapter_image": [[picture(3), picture(4)]]},
    ),
    "a scale": ({"ip_adapter_scale": 0.4}, {"scale": 0.4}),
    "a table of scales": ({"ip_adapter_scale": TABLE}, {"scale": TABLE}),
    "the middle": ({"ip_adapter_scale": {"mid": 0.9, "down": 0.2}}, {"scale": {"mid": 0.9, "down": 0.2}}),
    "no guidance": equal(guidance_scale=1.0),
    "two prompts": equal(prompt=["a red apple", "a small cat"]),
    "two images": equal(num_images_per_prompt=2),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_the_references(name: str, images: Images, same: Same) -> None:
    (ours, theirs), (tensors, place) = CALLS[name], images.file("base")
    shown: dict[str, Any] = {"ip_adapter_image": picture(3)}
    same(run(images.ours(place), **{**CALL, **shown, **ours}), images.theirs([tensors], **{**CALL, **shown, **theirs}))


def test_masks_and_two_adapters_are_the_references(images: Images, same: Same) -> None:
    (plain, first), (plus, second) = images.file("base"), images.file("plus", 1)
    right, left = half(), ImageOps.invert(half())
    masks = torch.cat([image_mask(mask) for mask in (left, right)], dim=1)  # 1 pictures rows columns
    theirs = images.theirs(
        [plain, plus], scale=[[0.6, 0.9], 0.5], **CALL,
        ip_adapter_image=[[picture(3), picture(4)], [picture(5)]],
        cross_attention_kwargs={"ip_adapter_masks": [masks, image_mask(right)]},
    )  # fmt: skip
    pipe = images.ours(first).insert(
        "face_1", numbered(ImagePrompt(ip_adapter_scale=0.5), "1"), before="denoise.guider"
    )
    ours = run(
        pipe.bind(ip_adapter_1=sf.load_component(second)), **CALL, ip_adapter_scale=(0.6, 0.9),
        ip_adapter_image=[picture(3), picture(4)], ip_adapter_masks=[left, right],
        ip_adapter_image_1=picture(5), ip_adapter_masks_1=right,
    )  # fmt: skip
    same(ours, theirs)


def image_mask(mask: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(mask, np.float32) / 255)[None, None]


def test_each_prompt_may_have_its_own_picture(images: Images) -> None:
    _, place = images.file("plus")
    pipe, prompts = images.ours(place), ["a red apple", "a small cat"]
    call = {**CALL, "prompt": prompts, "seed": [1, 2]}
    both = run(pipe, **call, ip_adapter_image=[[picture(3)], [picture(4)]])
    for row, prompt in enumerate(prompts):
        alone = run(pipe, **{**CALL, "prompt": prompt, "seed": row + 1}, ip_adapter_image=picture(3 + row))
        assert torch.allclose(both.latents[row], alone.latents[0], atol=1e-5)


def test_the_interval_counts_whole_steps(images: Images) -> None:
    _, place = images.file("base")
    pipe, call = images.ours(place), {**CALL, "ip_adapter_image": picture(3)}
    plain, always = run(images.pipe, **CALL).latents, run(pipe, **call).latents
    assert torch.equal(run(pipe, **call, ip_adapter_start=0.6).latents, plain)
    late = run(pipe, **call, ip_adapter_start=0.5).latents
    assert not torch.equal(late, plain) and not torch.equal(late, always)


def test_a_file_of_two_dicts_is_read_by_a_pipeline(images: Images, tmp_path: Path) -> None:
    tensors, place = images.file("base")
    torch.save(two_dicts(tensors), tmp_path / "ip-adapter.bin")
    images.encoder.save_pretrained(tmp_path / "image_encoder")
    folder = images.checkpoint
    pipe = sf.load(folder, ip_adapter=tmp_path / "ip-adapter.bin", allow_pickle=True)
    ours = run(pipe, **CALL, ip_adapter_image=picture(3))
    assert torch.equal(ours.latents, run(images.ours(place), **CALL, ip_adapter_image=picture(3)).latents)


def test_versions_of_face_plus_are_told_apart_by_the_name(images: Images, caplog: pytest.LogCaptureFixture) -> None:
    tensors, place = images.file("face_plus")
    second = place.with_name("ip-adapter-faceid-plusv2_sd15.safetensors")
    save_file(tensors, second)
    with caplog.at_level("INFO", "sfumato"):
        assert sf.load_component(second).config.shortcut
        assert not sf.load_component(place).config.shortcut
    assert "taken for FaceID Plus v2 by its name" in caplog.text


def test_it_works_beside_perturbed_attention_and_a_lora(images: Images) -> None:
    _, place = images.file("base")
    pipe, guider = images.ours(place), sf.guiders.PerturbedAttentionGuidance(guidance_scale=3.0)
    call = {**CALL, "guider": guider}
    seen = run(pipe, **call, ip_adapter_image=picture(3)).latents
    assert not torch.equal(seen, run(images.pipe, **call).latents)
    assert not torch.equal(seen, run(pipe, **CALL, ip_adapter_image=picture(3)).latents)


def test_threads_with_other_pictures_are_the_serial_runs(images: Images) -> None:
    _, place = images.file("face_lora")
    pipe = images.ours(place)

    def latents(seed: int) -> Tensor:
        faces = torch.randn(FACE, generator=torch.Generator().manual_seed(seed))
        return run(pipe, **CALL, ip_adapter_image_embeds=faces).latents

    serial = [latents(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(latents, range(4)), serial))


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no picture": ("base", {}, "The image prompt has no picture."),
    "a picture and features": (
        "base", {"ip_adapter_image": picture(3), "ip_adapter_image_embeds": torch.zeros(1, 24)},
        "has pictures and features",
    ),
    "no face": ("face", {}, "This adapter reads embeddings of faces."),
    "features of another encoder": (
        "base", {"ip_adapter_image_embeds": torch.zeros(1, 7)}, "needs 24 numbers (image_width) of the image_embeds",
    ),
    "other rows": ("base", {"ip_adapter_image": [[picture(3)]] * 3}, "has 3 rows for 1 prompt"),
    "lists of two lengths": ("base", {"ip_adapter_image": [[picture(3)], [picture(3)] * 2]}, "lists of 1 and 2"),
    "another number of masks": (
        "base", {"ip_adapter_image": picture(3), "ip_adapter_masks": [half(), half()]}, "2 masks for 1 picture",
    ),
    "an unknown part": ("base", {"ip_adapter_image": picture(3), "ip_adapter_scale": {"upp": 1.0}}, "no part 'upp'"),
    "an unknown block": (
        "base", {"ip_adapter_image": picture(3), "ip_adapter_scale": {"up": {"block_9": 1.0}}}, "in 'block_9'",
    ),
    "a list of another length": (
        "base", {"ip_adapter_image": picture(3), "ip_adapter_scale": {"up": {"block_1": [1.0] * 3}}}, "a list of 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_unfit_inputs_are_refused(name: str, images: Images) -> None:
    variant, inputs, text = BAD[name]
    with pytest.raises(sf.UnfitValue, match=re.escape(text)):
        run(images.ours(images.file(variant)[1]), **CALL, **inputs)


def test_what_is_no_picture_is_refused(images: Images) -> None:
    with pytest.raises(sf.InputError, match=r"^ip_adapter_image  takes Image .*, got 3 \(int\)\.$"):
        run(images.ours(images.file("base")[1]), **CALL, ip_adapter_image=3)


def test_an_adapter_of_another_unet_is_refused(images: Images) -> None:
    config = sf.load_component(images.file("base")[1]).to_config()
    other = sf.models.ImagePromptAdapter.from_config({**config, "channels": config["channels"][:-1]})
    with pytest.raises(sf.UnfitValue, match="is for 3 attentions to the prompt"):
        run(images.ours(images.file("base")[1]).bind(ip_adapter=other), **CALL, ip_adapter_image=picture(3))


@pytest.mark.parametrize("change", ["lacks a matrix", "another shape", "a matrix too many"])
def test_damaged_files_are_refused(change: str, images: Images, tmp_path: Path) -> None:
    tensors, _ = images.file("plus")
    match change:
        case "lacks a matrix":
            del tensors["ip_adapter.3.to_v_ip.weight"]
        case "another shape":
            tensors["image_proj.layers.1.0.to_kv.weight"] = torch.zeros(3, 3)
        case _:
            tensors["ip_adapter.99.to_k_ip.weight"] = torch.zeros(4, 4)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(sf.LoadError):
        sf.load_component(tmp_path / "odd.safetensors")


def test_runs_side_by_side_share_forwards_at_equal_scales(images: Images) -> None:
    pipe = images.ours(images.file("base")[1])
    few: dict[str, Any] = {**CALL, "output_type": "pt"}
    calls: list[dict[str, Any]] = [
        {**few, "ip_adapter_image": picture(3)},
        {**few, "ip_adapter_image": picture(4), "seed": 1, "prompt": "a small cat"},
        {**few, "ip_adapter_image": picture(3), "ip_adapter_scale": 0.4},
    ]
    alone = [pipe(**call).images for call in calls]
    runs = [pipe.stream(**call) for call in calls]
    with counted(pipe) as did:
        sf.together(runs)
    assert did.unet == 4  # two steps: the first two runs together, and the third
    for one, made in zip(runs, alone, strict=True):
        assert float((one.outputs.images - made).abs().max()) < PIXELS
    assert float((alone[0] - alone[2]).abs().max()) > PIXELS
