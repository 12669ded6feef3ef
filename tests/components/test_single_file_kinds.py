"""Single models in one file, files of other models, and what a file says beside its weights."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sfumato as sf
import sfumato.components.models as ours
from sfumato.components.loading.single_file.checkpoint import component_of, index_of, open_checkpoint
from sfumato.components.models.base import Model

from .test_single_file_recognition import FLUX, SINGLES, Shape, shapes_of, write

UNET = "model.diffusion_model."
TOWER = "cond_stage_model.transformer."


def component(file: Path, kind: str | None = None, **more: Any) -> Any:
    """A component of a file, of a manager of its own."""
    return sf.load_component(file, kind, manager=sf.ComponentsManager(), **more)


def scheduler(file: Path) -> dict[str, Any]:
    """The config of the scheduler that a file's pipeline has."""
    return index_of(file, sf.Access()).spec("scheduler").read_config()


# ------------------------------------------------------------------------------------------------- one model a file
@pytest.mark.parametrize("name", SINGLES)
def test_a_model_alone_is_loaded_by_its_class_without_it_and_by_a_spec(name: str, tmp_path: Path) -> None:
    kind, config = SINGLES[name]
    torch.manual_seed(0)
    model: Model[Any] = getattr(ours, kind)(**config)
    weights = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "one.safetensors")
    spec = sf.ComponentSpec(pretrained_model_name_or_path=str(tmp_path / "one.safetensors"))
    for made in (
        component(tmp_path / "one.safetensors"),
        component(tmp_path / "one.safetensors", kind),
        sf.ComponentsManager().load(spec),
        sf.ComponentsManager().load(spec.using(type_hint=component_of(Path(spec.load_id.split("|")[0]), spec.access,
                                                                      None).type_hint)),
    ):  # fmt: skip
        assert type(made) is type(model)
        assert all(torch.equal(made.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ({}, {"adapter_type": "full_adapter", "in_channels": 3, "downscale_factor": 8}),
        ({"adapter_type": "full_adapter_xl", "downscale_factor": 16}, {"in_channels": 3, "downscale_factor": 16}),
        ({"in_channels": 1}, {"in_channels": 1, "downscale_factor": 8, "adapter_type": "full_adapter"}),
        ({"in_channels": 1, "adapter_type": "full_adapter_xl", "downscale_factor": 16}, {"in_channels": 1}),
    ],
)
def test_adapters_of_all_published_kinds_have_their_configs(
    shapes: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    adapter = ours.T2IAdapter(channels=(32, 64, 128, 128), **shapes)
    file = write(tmp_path / "a.safetensors", {n: tuple(t.shape) for n, t in adapter.state_dict().items()})
    config = component(file).to_config()
    assert {key: config[key] for key in wanted} == wanted
    assert config["adapter_type"] == adapter.config.adapter_type


def test_small_control_nets_of_sdxl_have_no_attention(tmp_path: Path) -> None:
    net = ours.ControlNetModel(
        block_out_channels=(64, 128), down_block_types=("DownBlock2D",) * 2, layers_per_block=1,
        mid_block_type="UNetMidBlock2D", addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1600, cross_attention_dim=2048, attention_head_dim=(1, 2),
    )  # fmt: skip
    file = write(tmp_path / "small.safetensors", {n: tuple(t.shape) for n, t in net.state_dict().items()})
    config = component(file).to_config()
    assert {key: config[key] for key in ("mid_block_type", "cross_attention_dim", "addition_time_embed_dim")} == {
        "mid_block_type": "UNetMidBlock2D", "cross_attention_dim": 2048, "addition_time_embed_dim": 256,
    }  # fmt: skip


def test_flux_nets_have_their_kinds_and_guidance(tmp_path: Path) -> None:
    net = ours.FluxControlNetModel(**FLUX, num_mode=7, guidance_embeds=True)
    file = write(tmp_path / "net.safetensors", {n: tuple(t.shape) for n, t in net.state_dict().items()})
    assert component(file).to_config() == net.to_config()


@pytest.mark.parametrize(
    ("kind", "head", "axes"), [("FluxControlNetModel", 16, (4, 6, 6)), ("FluxTransformer2DModel", 64, (8, 28, 28))]
)
def test_flux_with_heads_of_another_width_says_which_config_to_pass(
    kind: str, head: int, axes: tuple[int, ...], tmp_path: Path
) -> None:
    net: Model[Any] = getattr(ours, kind)(**{**FLUX, "attention_head_dim": head, "axes_dims_rope": axes})
    file = write(tmp_path / "net.safetensors", {n: tuple(t.shape) for n, t in net.state_dict().items()})
    wanted = f"In the proportion of Flux, pass config={{'axes_dims_rope': {axes}}}."
    with pytest.raises(sf.LoadError, match=re.escape(wanted)):
        component(file)
    assert component(file, config={"axes_dims_rope": axes}).config.axes_dims_rope == axes


# -------------------------------------------------------------------------------------------------- names of towers
def test_towers_are_read_with_and_without_text_model(tmp_path: Path) -> None:
    shapes = shapes_of("sd1")
    flat = {n.replace(f"{TOWER}text_model.", TOWER): s for n, s in shapes.items()}
    assert flat != shapes
    for number, names in enumerate((shapes, flat)):
        file = write(tmp_path / f"{number}.safetensors", names)
        assert {"unet", "vae", "text_encoder"} <= index_of(file, sf.Access()).loadable.keys()
        assert type(component(file, "CLIPTextModel")) is ours.CLIPTextModel


def test_a_base_of_sdxl_without_its_first_tower_is_no_refiner(tmp_path: Path) -> None:
    shapes = {n: s for n, s in shapes_of("sdxl").items() if not n.startswith("conditioner.embedders.0.")}
    pipe = sf.load(write(tmp_path / "base.safetensors", shapes), manager=sf.ComponentsManager())
    assert pipe.preset == ("sdxl", "text2image")
    assert [problem.place for problem in pipe.check()] == ["text_encoder"]


def test_the_projection_of_an_open_clip_tower_may_be_a_layer(tmp_path: Path) -> None:
    name = "conditioner.embedders.1.model.text_projection"
    width = torch.randn(32, 32)
    tensors = {n: torch.zeros(s) for n, s in shapes_of("sdxl").items() if n.startswith("conditioner.embedders.1.")}
    other = {n: t for n, t in tensors.items() if n != name}
    save_file({**tensors, name: width}, tmp_path / "matrix.safetensors")
    save_file({**other, f"{name}.weight": width.T.contiguous()}, tmp_path / "layer.safetensors")
    first, second = (
        component(tmp_path / f"{n}.safetensors", "CLIPTextModelWithProjection") for n in ("matrix", "layer")
    )
    assert torch.equal(first.text_projection.weight, second.text_projection.weight)
    assert torch.equal(second.text_projection.weight, width.T)


# ------------------------------------------------------------------------------------------------- files of others
def _with(layout: str, **more: Shape) -> dict[str, Shape]:
    return {**shapes_of(layout), **{name.replace("__", "."): shape for name, shape in more.items()}}


def _bare(layout: str) -> dict[str, Shape]:
    return {n.removeprefix(UNET): s for n, s in shapes_of(layout).items() if n.startswith(UNET)}


def _without(shapes: dict[str, Shape], *pieces: str) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if not any(piece in name for piece in pieces)}


def _channels(count: int) -> dict[str, Shape]:
    name = f"{UNET}input_blocks.0.0.weight"
    return {**shapes_of("sd1"), name: (32, count, 3, 3)}


OTHERS: dict[str, tuple[dict[str, Shape], str]] = {
    "chroma": (
        {**_without(_bare("flux"), "vector_in", "_mod.lin"), "distilled_guidance_layer.in_proj.weight": (4, 4)},
        "Chroma",
    ),
    "flux 2": (
        {**_without(_bare("flux"), "vector_in"), "double_stream_modulation_img.lin.weight": (4, 4)}, r"FLUX\.2",
    ),
    "xlabs": ({**_without(_bare("flux"), "final_layer"), "input_hint_block.0.weight": (4, 3, 3, 3)}, "XLabs"),
    "ip2p": (_channels(8), "InstructPix2Pix"),
    "depth": (_channels(5), "a depth map"),
    "upscaler": (_channels(7), "a small picture"),
    "classes": (_with("sd1", **{f"{UNET}label_emb.weight": (10, 128)}), "a U-Net that reads a class"),
    "unclip": (_with("sd2", **{"noise_augmentor.data_mean": (1, 4)}), "unCLIP"),
    "svd": (
        _with("sd1", **{f"{UNET}input_blocks.1.1.time_stack.0.attn1.to_q.weight": (4, 4),
                        f"{UNET}input_blocks.1.1.time_mixer.mix_factor": (1,)}), "Stable Video Diffusion",
    ),
    "no prompt": (_without(_bare("sd1"), "attn2", "norm2"), "reads no prompt"),
    "motion": ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (4,)}, "AnimateDiff"),
    "lora": ({"lora_unet_down_blocks_0.lora_down.weight": (4, 4), "a.alpha": ()}, "a LoRA"),
    "embedding": ({"emb_params": (2, 768)}, "a textual inversion"),
    "embedding of sdxl": ({"clip_g": (2, 8), "clip_l": (2, 4)}, "a textual inversion of SDXL"),
    "hypernetwork": ({"768.0.linear.0.weight": (4, 4)}, "a hypernetwork"),
    "esrgan": ({"model.1.sub.0.RDB1.conv1.0.weight": (4, 4, 3, 3)}, "ESRGAN"),
    "z-image": ({"cap_embedder.0.weight": (4,), "all_final_layer.2-1.linear.weight": (4, 4)}, "Z-Image"),
    "wan": (
        {"blocks.0.cross_attn.q.weight": (4, 4), "patch_embedding.weight": (4, 4, 1, 2, 2),
         "time_projection.1.weight": (4, 4)}, "Wan",
    ),
    "sd 3 control": (
        {"controlnet_blocks.0.weight": (4, 4), "transformer_blocks.0.adaLN_modulation.1.weight": (4, 4)},
        "a control net for SD 3 in the layout of its authors",
    ),
    "shard": (dict(list(_bare("sd1").items())[:30]), r"a part of a U-Net, which lacks .* pass the folder"),
    "flux shard": (_without(_bare("flux"), "final_layer"), r"a part of a Flux transformer, which lacks final_layer"),
    "decoder": (_without(shapes_of("autoencoder"), "encoder.", "quant_conv.weight"), "decoder alone"),
    "codebook": (_with("autoencoder", **{"quantize.embedding.weight": (8, 4)}), "a codebook"),
    "t5 shard": (_without(shapes_of("t5"), "shared", "embed_tokens"), "a part of a T5 encoder"),
    "language model": ({"model.layers.0.self_attn.q_proj.weight": (4, 4)}, "a language model"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_model_is_named_for_what_it_looks_like(name: str, tmp_path: Path) -> None:
    shapes, looks = OTHERS[name]
    file = write(tmp_path / "other.safetensors", shapes)
    with pytest.raises(sf.LoadError, match=rf"It looks like .*{looks}"):
        sf.load(file, manager=sf.ComponentsManager())
    assert sf.inspect(file).family is None and "It looks like" in str(sf.inspect(file))


@pytest.mark.parametrize("layout", ["control net", "sdxl"])
def test_a_shard_with_all_tensors_of_the_recognition_is_named_for_what_it_is(layout: str, tmp_path: Path) -> None:
    shapes = shapes_of(layout)
    last = next(name for name in reversed(shapes) if "attn2.to_v" in name)
    part = {name: shape for name, shape in shapes.items() if name != last}
    file = write(tmp_path / "model-00001-of-00002.safetensors", part)
    assert "It is shard 1 of 2. Pass the folder that has all of them." in str(sf.inspect(file))
    for load in (sf.load, component):
        with pytest.raises(sf.LoadError, match=r"model-00001-of-00002\.safetensors: .*It is shard 1 of 2\."):
            load(file)
    text = str(sf.inspect(file.rename(tmp_path / "other.safetensors")))
    assert "attn2.to_v.weight" in text
    assert "A part is missing: an interrupted save, or one shard of several." in text
    whole = write(tmp_path / "model-00001-of-00001.safetensors", shapes)
    assert "It is shard" not in str(sf.inspect(whole))


def test_the_header_of_an_unknown_file_is_in_the_error(tmp_path: Path) -> None:
    file = write(tmp_path / "new.safetensors", {"x.weight": (2,)}, {"modelspec.architecture": "nova-3"})
    with pytest.raises(sf.LoadError, match=r"holds no known model\. Its header says 'nova-3'"):
        sf.load(file)


# ------------------------------------------------------------------------------------------- beside the weights
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("count", [1, 5, 28])
def test_zero_terminal_snr_starts_at_the_last_timestep(family: str, count: int, tmp_path: Path) -> None:
    file = write(tmp_path / "v.safetensors", _with(family, v_pred=(0,), ztsnr=(0,)))
    config = scheduler(file)
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    made = sf.schedulers.Scheduler.coerce(config)
    assert made.steps(count)[0].timestep == 999


def test_marks_beside_a_bare_u_net_are_none_of_its_tensors(tmp_path: Path) -> None:
    file = write(tmp_path / "v.safetensors", {**_bare("sdxl"), "v_pred": (0,), "ztsnr": (0,)})
    assert type(component(file)) is ours.UNet2DConditionModel
    assert scheduler(file)["prediction_type"] == "v_prediction"


def test_files_trained_by_edm_have_its_schedulers(tmp_path: Path) -> None:
    shapes, statistics = shapes_of("sdxl"), (torch.tensor([1.0, 2, 3, 4]), torch.tensor([5.0, 6, 7, 8]))
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    marks = {"edm_mean": statistics[0].reshape(1, 4, 1, 1), "edm_std": statistics[1]}
    save_file({**tensors, **marks}, tmp_path / "playground.safetensors")
    config = scheduler(tmp_path / "playground.safetensors")
    assert (config["_class_name"], config["sigma_data"]) == ("EDMDPMSolverMultistepScheduler", 0.5)
    vae = index_of(tmp_path / "playground.safetensors", sf.Access()).spec("vae").read_config()
    assert (vae["scaling_factor"], vae["latents_mean"], vae["latents_std"]) == (0.5, [1, 2, 3, 4], [5, 6, 7, 8])
    save_file({**tensors, "edm_vpred.sigma_max": torch.tensor(120.0)}, tmp_path / "cosxl.safetensors")
    config = scheduler(tmp_path / "cosxl.safetensors")
    assert (config["_class_name"], config["sigma_data"], config["sigma_max"]) == ("EDMEulerScheduler", 1.0, 120.0)
    assert config["prediction_type"] == "v_prediction"
    save_file({**tensors, "edm_mean": statistics[0]}, tmp_path / "half.safetensors")
    with pytest.raises(sf.LoadError, match="4 numbers in edm_mean and 0 in edm_std"):
        sf.load(tmp_path / "half.safetensors")


@pytest.mark.parametrize(
    ("header", "predicts"),
    [
        ({"modelspec.prediction_type": "v"}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ({}, "epsilon"),
    ],
)
def test_the_header_says_what_is_predicted(header: dict[str, str], predicts: str, tmp_path: Path) -> None:
    config = scheduler(write(tmp_path / "file.safetensors", shapes_of("sdxl"), header))
    assert config.get("prediction_type", "epsilon") == predicts


def test_the_header_says_the_size_of_pictures(tmp_path: Path) -> None:
    file = write(tmp_path / "file.safetensors", shapes_of("sd1"), {"modelspec.resolution": "768x768"})
    assert index_of(file, sf.Access()).spec("unet").read_config()["sample_size"] == 96


def test_tensors_of_no_model_are_in_the_report(tmp_path: Path) -> None:
    file = write(tmp_path / "more.safetensors", _with("sd1", strange__weight=(2,), betas=(3,), v_pred=(0,)))
    report = open_checkpoint(file, sf.Access()).report()
    assert report.endswith("and 1 tensors of no known model: strange.weight")
    assert "strange.weight" in str(sf.inspect(file))
