"""Workflows with control nets and image prompts: a run of each is the same call written by hand."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import sfumato as sf
from sfumato.blocks.text.flux import EncodePrompt
from sfumato.components.image_processor import SiglipImageProcessor
from sfumato.presets import flux
from sfumato.presets.bridge.comfyui import from_comfyui
from sfumato.presets.bridge.comfyui.padding import padded
from sfumato.presets.bridge.comfyui.table_image_prompts import PLACES, WEIGHTS, table_of
from sfumato.presets.bridge.comfyui.values import Padding
from sfumato.presets.settings import FluxSettings

from .comfyui_models import drawn
from .comfyui_workflows import api, pixels
from .image_prompts import VISION, Files
from .support import half, picture

CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
Changes = dict[str, Any]


@pytest.fixture(scope="module")
def models(comfy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of a tiny checkpoint, and of nets that fit it, by the names that workflows have."""
    folder, whole = tmp_path_factory.mktemp("nets"), comfy_models / "checkpoints" / CHECKPOINT
    unet: Any = sf.load(whole).bindings["unet"].load()
    shared = {name: value for name, value in unet.config.model_dump().items()
              if name in sf.models.ControlNetModel.config_class.model_fields}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = drawn(sf.models.ControlNetModel(**shared, conditioning_embedding_out_channels=(4, 8, 8, 8)))
        vision = drawn(sf.models.CLIPVisionModelWithProjection(**VISION, num_channels=3))
    save_file(net.state_dict(), folder / "control.safetensors")
    save_file(vision.state_dict(), folder / "vision.safetensors")
    save_file(Files(_as_theirs(unet))("base"), folder / "ip-adapter_sd15.safetensors")
    names = {"control_canny.safetensors": "control", "vision.safetensors": "vision",
             "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": "vision",
             "ip-adapter_sd15.safetensors": "ip-adapter_sd15"}  # fmt: skip
    return {CHECKPOINT: whole, **{name: folder / f"{file}.safetensors" for name, file in names.items()}}


def _as_theirs(unet: nn.Module) -> Any:
    """Ours with the names that the reference's has, in the order of its attention processors."""
    modules = dict(unet.named_modules())
    parts = ("down_blocks", "up_blocks", "mid_block")
    names = [name for part in parts for name in modules if name.startswith(part) and name.endswith(("attn1", "attn2"))]
    config: Any = unet.config
    return SimpleNamespace(
        config=SimpleNamespace(cross_attention_dim=config.cross_attention_dim),
        attn_processors=[f"{name}.processor" for name in names], named_modules=lambda: modules.items(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, another, and one whose right half is transparent."""
    folder = tmp_path_factory.mktemp("input")
    for number, name in enumerate(("one.png", "two.png")):
        picture(number).save(folder / name)
    cut = picture(2).convert("RGBA")
    cut.putalpha(Image.eval(half(), lambda value: 255 - value))
    cut.save(folder / "cut.png")
    return folder


def loaded(name: str) -> Changes:
    return {"class_type": "LoadImage", "inputs": {"image": name}}


def control(**inputs: Any) -> Changes:
    """Changes of `api`: a control net on both prompts."""
    return {
        "net": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "control_canny.safetensors"}},
        "hint": loaded("one.png"),
        "control": {"class_type": "ControlNetApplyAdvanced", "inputs": {
            "positive": ["positive", 0], "negative": ["negative", 0], "control_net": ["net", 0], "image": ["hint", 0],
            "strength": 0.8, "start_percent": 0.0, "end_percent": 0.7, **inputs}},
        "sample": {"positive": ["control", 0], "negative": ["control", 1]},
    }  # fmt: skip


def prompted(kind: str = "IPAdapterAdvanced", **inputs: Any) -> Changes:
    """Changes of `api`: an IP-Adapter on the model."""
    return {
        "adapter": {"class_type": "IPAdapterModelLoader", "inputs": {"ipadapter_file": "ip-adapter_sd15.safetensors"}},
        "vision": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "vision.safetensors"}},
        "shown": loaded("one.png"),
        "prompt": {"class_type": kind, "inputs": {
            "model": ["checkpoint", 0], "ipadapter": ["adapter", 0], "image": ["shown", 0], "weight": 0.7,
            "weight_type": "linear", "combine_embeds": "concat", "start_at": 0.0, "end_at": 0.9,
            "embeds_scaling": "V only", "clip_vision": ["vision", 0], **inputs}},
        "sample": {"model": ["prompt", 0]},
    }  # fmt: skip


def by_hand(models: dict[str, Path], start: Any, **nets: Path) -> sf.Graph:
    keywords: dict[str, Any] = {**nets}
    hand = sf.load(models[CHECKPOINT], scheduler="euler_normal", **keywords)
    return hand.replace("start", start).using(prompts="comfy")


CALL: dict[str, Any] = {
    "prompt": "a (red:1.3) fox", "negative_prompt": "blurry", "seed": 7, "num_inference_steps": 3,
    "guidance_scale": 6.5, "height": 64, "width": 64,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- control nets
def test_a_control_net_is_that_of_a_call_by_hand(models: dict[str, Path], pictures: Path) -> None:
    graph, inputs, report = from_comfyui(api(**control()), models=models, images=pictures)
    assert not report.notes and not report.holes and not report.missing
    hand = by_hand(models, graph["start"], controlnet=models["control_canny.safetensors"])
    call = {**CALL, "control_image": picture(0), "controlnet_conditioning_scale": 0.8, "control_guidance_end": 0.7}
    wanted = pixels(hand, **call)
    assert np.array_equal(pixels(graph, **inputs), wanted)
    plain = from_comfyui(api(), models=models)
    assert not np.array_equal(pixels(plain.graph, **plain.inputs), wanted)


def test_a_control_net_beside_blocks_of_its_own_is_bound_too(models: dict[str, Path], pictures: Path) -> None:
    """A picture that a block makes in the run: the workflow is no preset."""
    scaled: Changes = {"class_type": "ImageScale", "inputs": {
        "image": ["hint", 0], "upscale_method": "bilinear", "width": 64, "height": 64, "crop": "disabled"}}  # fmt: skip
    made = from_comfyui(api(**control(image=["scaled", 0]), scaled=scaled), models=models, images=pictures)
    assert "image_scale" in made.graph.nodes and not made.report.holes
    plain = from_comfyui(api(**control()), models=models, images=pictures)
    apart = pixels(made.graph, **made.inputs) - pixels(plain.graph, **plain.inputs)
    assert np.abs(apart).max() < 1e-5


# ------------------------------------------------------------------------------------------------- image prompts
def test_an_image_prompt_is_that_of_a_call_by_hand(models: dict[str, Path], pictures: Path) -> None:
    changes = prompted(image_negative=["other", 0], attn_mask=["cut", 1])
    made = from_comfyui(api(**changes, other=loaded("two.png"), cut=loaded("cut.png")), models=models, images=pictures)
    assert not made.report.notes and not made.report.holes and not made.report.missing
    nets = {"ip_adapter": models["ip-adapter_sd15.safetensors"], "image_encoder": models["vision.safetensors"]}
    hand = by_hand(models, made.graph["start"], **nets)
    call = {**CALL, "ip_adapter_image": picture(0), "negative_ip_adapter_image": picture(1),
            "ip_adapter_masks": half(), "ip_adapter_scale": 0.7, "ip_adapter_end": 0.9}  # fmt: skip
    wanted = pixels(hand, **call)
    assert np.array_equal(pixels(made.graph, **made.inputs), wanted)
    assert not np.array_equal(pixels(hand, **{**call, "ip_adapter_scale": 0.0}), wanted)


def test_a_unified_loader_finds_the_published_files(models: dict[str, Path], pictures: Path) -> None:
    loader: Changes = {"class_type": "IPAdapterUnifiedLoader", "inputs": {
        "model": ["checkpoint", 0], "preset": "STANDARD (medium strength)"}}  # fmt: skip
    simple = prompted("IPAdapter", model=["unified", 0], ipadapter=["unified", 1], clip_vision=None,
                      weight_type="standard")  # fmt: skip
    made = from_comfyui(api(**simple, unified=loader), models=models, images=pictures)
    assert not made.report.notes and not made.report.holes and not made.report.missing
    plain = from_comfyui(api(**prompted()), models=models, images=pictures)
    assert np.array_equal(pixels(made.graph, **made.inputs), pixels(plain.graph, **plain.inputs))
    needed = {file.name for file in from_comfyui(api(**simple, unified=loader)).report.missing}
    assert {"ip-adapter_sd15.safetensors", "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"} <= needed


def test_two_samplers_and_two_pictures_are_a_graph_of_blocks(models: dict[str, Path], pictures: Path) -> None:
    """The pictures of a batch count together, and each sampler has its own nets."""
    second = {**api()["sample"]["inputs"], "latent_image": ["sample", 0], "denoise": 0.5}
    batch: Changes = {"class_type": "ImageBatch", "inputs": {"image1": ["shown", 0], "image2": ["other", 0]}}
    made = from_comfyui(
        api(
            **prompted(image=["batch", 0]), batch=batch, other=loaded("two.png"),
            again={"class_type": "KSampler", "inputs": second}, decode={"samples": ["again", 0]},
        ),
        models=models, images=pictures,
    )  # fmt: skip
    assert {"sample", "sample_2"} <= {*made.graph.nodes} and not made.report.holes
    assert pixels(made.graph, **made.inputs).shape == (1, 64, 64, 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clip_vision": None}, "it has no vision encoder. Link a CLIPVisionLoader into clip_vision"),
        ({"weight_type": "style transfer precise"}, "weight_type='style transfer precise' is not here"),
    ],
    ids=["no encoder", "weights"],
)
def test_an_image_prompt_that_is_not_here_is_a_hole(changes: Changes, reason: str) -> None:
    report = from_comfyui(api(**prompted(**changes))).report
    (hole,) = report.holes
    assert hole.type == "IPAdapterAdvanced" and hole.text.startswith(reason)


def test_an_adapter_of_faces_is_a_hole() -> None:
    changes = prompted()
    changes["adapter"]["inputs"]["ipadapter_file"] = "ip-adapter-faceid_sd15.bin"
    (hole,) = from_comfyui(api(**changes)).report.holes
    assert "reads embeddings of faces" in hole.text


def test_settings_that_are_not_read_are_in_the_report() -> None:
    report = from_comfyui(api(**prompted(embeds_scaling="K+V", combine_embeds="average"))).report
    (noted,) = [node.text for node in report.nodes if node.type == "IPAdapterAdvanced"]
    assert noted == "combine_embeds='average' is not here; 'concat' is used; embeds_scaling='K+V' is not here; " \
        "'V only' is used"  # fmt: skip


# ------------------------------------------------------------------------------------------------- Redux
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_style_model_is_redux_by_hand(strength: float, comfy_models: Path, pictures: Path) -> None:
    """The strength scales the tokens of the picture alone: by hand, the last layer that makes them."""
    files = {"text_encoder": "text_encoders/clip_l", "text_encoder_2": "text_encoders/t5xxl_fp16", "vae": "vae/ae"}
    nodes: Changes = {
        "unet": {"class_type": "UNETLoader",
                 "inputs": {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}},
        "clip": {"class_type": "DualCLIPLoader", "inputs": {
            "clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux"}},
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
        "shown": loaded("one.png"),
        "vision": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "sigclip.safetensors"}},
        "seen": {"class_type": "CLIPVisionEncode", "inputs": {"clip_vision": ["vision", 0], "image": ["shown", 0]}},
        "redux": {"class_type": "StyleModelLoader", "inputs": {"style_model_name": "redux.safetensors"}},
        "style": {"class_type": "StyleModelApply", "inputs": {
            "conditioning": ["positive", 0], "style_model": ["redux", 0], "clip_vision_output": ["seen", 0],
            "strength": strength, "strength_type": "multiply"}},
        "positive": {"clip": ["clip", 0]}, "negative": {"clip": ["clip", 0]}, "decode": {"vae": ["vae", 0]},
        "sample": {"model": ["unet", 0], "positive": ["style", 0], "cfg": 1.0, "steps": 2},
    }  # fmt: skip
    graph, inputs, report = from_comfyui(api(**nodes), models=comfy_models, images=pictures)
    wanted = "Redux is not loaded from its files: bind image_encoder, feature_extractor and image_embedder"
    assert report.notes == (wanted,) and not report.holes
    with torch.random.fork_rng():
        torch.manual_seed(4)
        encoder = drawn(sf.models.SiglipVisionModel(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            patch_size=8))  # fmt: skip
        redux = drawn(sf.models.ReduxImageEncoder(redux_dim=16, txt_in_features=256))
    parts = {"image_encoder": encoder, "feature_extractor": SiglipImageProcessor(size=(32, 32))}
    made = pixels(graph.bind(parts, image_embedder=redux), **inputs)
    plain: Any = {name: comfy_models / f"{file}.safetensors" for name, file in files.items()}
    towers = sf.load(comfy_models / "diffusion_models" / "flux1-dev.safetensors", **plain).bindings
    hand = redux_graph(towers)
    last: Any = redux.redux_down
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(strength)
    hand = hand.bind(parts, image_embedder=redux, scheduler=graph.bindings["scheduler"]).using(prompts="comfy")
    call: dict[str, Any] = {**CALL, "num_inference_steps": 2, "guidance_scale": 3.5, "image": picture(0)}
    del call["negative_prompt"]
    assert np.array_equal(made, pixels(hand, **call))


def redux_graph(bindings: Mapping[str, Any]) -> sf.Graph:
    """The preset Redux, with a prompt beside the picture."""
    encode = sf.named(EncodePrompt(), conditioning="positive")
    made = flux.redux(FluxSettings(pooled_width=64)).replace("empty_prompt", encode)
    return made.bind({name: bound for name, bound in bindings.items() if name in made.components})


# ------------------------------------------------------------------------------------------------- outpainting
def test_outpainting_is_inpainting_of_the_margins(models: dict[str, Path], pictures: Path) -> None:
    changes: Changes = {
        "load": loaded("one.png"),
        "pad": {"class_type": "ImagePadForOutpaint", "inputs": {
            "image": ["load", 0], "left": 0, "top": 16, "right": 24, "bottom": 0, "feathering": 8}},
        "latent": {"class_type": "VAEEncodeForInpaint", "inputs": {
            "pixels": ["pad", 0], "vae": ["checkpoint", 2], "mask": ["pad", 1], "grow_mask_by": 0}},
    }  # fmt: skip
    graph, inputs, report = from_comfyui(api(**changes), models=models, images=pictures)
    assert graph.preset == ("sd", "inpaint") and not report.holes
    assert (inputs["height"], inputs["width"]) == (80, 88)
    image, mask = inputs["image"], np.asarray(inputs["mask_image"], np.float32) / 255
    assert image.getpixel((2, 2)) == image.getpixel((80, 40)) == (128, 128, 128)
    assert image.crop((0, 16, 64, 80)).tobytes() == picture(0).tobytes()
    assert mask[:16].min() == mask[:, 64:].min() == 1 and mask[40, 0] == mask[79, 30] == 0
    # The distance to the first row of the picture is 0, and to its last column 1.
    assert mask[16, 0] == 1 and mask[18, 0] == pytest.approx((6 / 8) ** 2, abs=0.01)
    assert mask[60, 63] == pytest.approx((7 / 8) ** 2, abs=0.01)
    assert pixels(graph, **inputs).shape == (1, 80, 88, 3)


def test_margins_beyond_the_limit_are_a_hole() -> None:
    pad: Changes = {"class_type": "ImagePadForOutpaint", "inputs": {
        "image": ["load", 0], "left": 10**9, "top": 0, "right": 0, "bottom": 0, "feathering": 0}}  # fmt: skip
    latent: Changes = {"class_type": "VAEEncode", "inputs": {"pixels": ["pad", 0], "vae": ["checkpoint", 2]}}
    (hole,) = from_comfyui(api(load=loaded("one.png"), pad=pad, latent=latent)).report.holes
    assert hole.text == "a margin is not from 0 to 16384: (1000000000, 0, 0, 0, 0)"


def test_a_padded_picture_beyond_the_limit_is_refused() -> None:
    with pytest.raises(sf.GraphFileError, match=r"^The workflow's padded picture has 1,077,940,224 pixels"):
        padded(picture(0), Padding(16384, 16384, 16384, 16384, 0))


# ------------------------------------------------------------------------------------------------- weights
def test_weights_of_blocks_are_those_of_instantstyle() -> None:
    """The tables of the paper's authors for SDXL: one transformer for the style, one for the layout."""
    style, layout = table_of(0.8, "style transfer", "sdxl"), table_of(0.8, "composition", "sdxl")
    assert style["up"]["block_0"] == [0, 0.8, 0] and layout["down"]["block_2"] == [0, 0.8]
    assert sum(map(sum, style["up"].values())) == 0.8 and sum(map(sum, style["down"].values())) + style["mid"] == 0


@pytest.mark.parametrize("family", PLACES)
def test_weights_of_blocks_fit_the_published_unets(family: str) -> None:
    counts = {"sd": (6, 9), "sdxl": (4, 6)}[family]
    for kind in WEIGHTS:
        table = table_of(1.0, kind, family)
        assert tuple(sum(map(len, table[part].values())) for part in ("down", "up")) == counts
    eased = table_of(2.0, "ease out", family)
    assert eased["down"][min(eased["down"])][0] == pytest.approx(0.1)
    assert table_of(1.0, "weak middle", family)["mid"] == 0.2
