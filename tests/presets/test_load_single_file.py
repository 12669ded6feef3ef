"""One file draws what its folder draws: original layout, diffusers' layout and ComfyUI's, for every family."""

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.loading.index import read_index
from sfumato.components.loading.single_file.writing import write_checkpoint

from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .support import fresh, held

Folders = Callable[[str, str], Path]
CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 0, "output_type": "pt"}
SIZE: dict[str, dict[str, Any]] = {"flux": {"height": 32, "width": 32, "max_sequence_length": 24}, "sd3": {}}
FAMILIES = {
    "sd1": ("checkpoint", "sd"),
    "sd2": ("checkpoint", "sd2"),
    "sdxl": ("xl_checkpoint", "base"),
    "sdxl_refiner": ("xl_checkpoint", "refiner"),
    "sd3": ("sd3_checkpoint", "3 medium"),
    "flux": ("flux_checkpoint", "dev"),
}


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint of a family."""
    return lambda family: request.getfixturevalue(FAMILIES[family][0])(FAMILIES[family][1])


@pytest.fixture(scope="session")
def file(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same models in one file of original layout."""

    @cache
    def make(family: str) -> Path:
        return write_checkpoint(
            tmp_path_factory.mktemp("single") / f"{family}.safetensors", family, models(folder(family))
        )

    return make


def models(folder: Path) -> dict[str, Any]:
    manager = fresh()
    loaded = {n: manager.load(s) for n, s in read_index(folder).loadable.items() if s.type_hint}
    return {name: model for name, model in loaded.items() if isinstance(model, nn.Module)}


def picture(pipe: sf.Graph, family: str) -> Tensor:
    return pipe(**CALL, **SIZE.get(family, {})).images


def same(came: Tensor, wanted: Tensor) -> None:
    """The tensors are equal to the last bit. Where in memory a file puts them changes the order of sums a little."""
    assert (came - wanted).abs().max() < 1e-5


def load(x: Path, **more: Any) -> sf.Graph:
    return sf.load(x, manager=fresh(), **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_draws_what_its_folder_draws(
    family: str, folder: Callable[[str], Path], file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sfumato"):
        pipe = load(file(family), config=folder(family))
    said = next(record.message for record in caplog.records if record.name == "sfumato")
    assert said.startswith(f"{family}.safetensors: holds ") and f"of {family} in the layout of its authors" in said
    same(picture(pipe, family), picture(load(folder(family)), family))
    for name, model in models(folder(family)).items():
        ours = held(pipe, name).state_dict()
        assert ours.keys() == model.state_dict().keys()
        assert all(torch.equal(ours[key], tensor) for key, tensor in model.state_dict().items()), name


def test_what_shapes_say_is_what_the_folders_configs_say(
    folder: Callable[[str], Path], file: Callable[[str], Path]
) -> None:
    """But for heads, which shapes do not show, and sizes that only set defaults."""
    unseen = {"attention_head_dim", "num_attention_heads", "sample_size", "scaling_factor", "axes_dims_rope", "d_kv"}
    unseen |= {"relative_attention_max_distance", "addition_time_embed_dim", "bos_token_id", "eos_token_id"}
    unseen |= {"pad_token_id", "hidden_act", "dtype", "norm_num_groups", "use_linear_projection", "_class_name"}
    unseen |= {"num_heads", "initializer_factor", "transformer_layers_per_block"}  # it says 1 where there are none
    for family in FAMILIES:
        told = load(file(family)).bindings
        for name, model in models(folder(family)).items():
            wanted = model.to_config()
            fixed = {k: v for k, v in model.config.to_dict().items() if k in unseen}
            config = type(model).from_config({**told[name].spec.config, **fixed}).to_config()
            if not hasattr(model, "text_projection"):
                wanted.pop("projection_dim", None)
            wrong = {k: (v, wanted[k]) for k, v in config.items() if k not in unseen and v != wanted.get(k, v)}
            assert wrong == {}, (family, name)


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_comfys_prefixes_and_diffusers_names_in_one_file(
    family: str, folder: Callable[[str], Path], file: Callable[[str], Path], tmp_path: Path
) -> None:
    want = picture(load(folder(family)), family)
    tensors = load_file(file(family))
    prefixes = {
        "vae.": "first_stage_model.",
        "first_stage_model.": "vae.",
        "model.diffusion_model.": "diffusion_model.",
    }
    for before, after in prefixes.items():
        if any(name.startswith(before) for name in tensors):
            moved = {after + n[len(before) :] if n.startswith(before) else n: t for n, t in tensors.items()}
            save_file(moved, tmp_path / "moved.safetensors")
            same(picture(load(tmp_path / "moved.safetensors", config=folder(family)), family), want)
    named = {f"{name}.{k}": t for name, m in models(folder(family)).items() for k, t in m.state_dict().items()}
    save_file({name: tensor.clone() for name, tensor in named.items()}, tmp_path / "named.safetensors")
    same(picture(load(tmp_path / "named.safetensors", config=folder(family)), family), want)


def test_a_file_with_the_denoiser_alone_takes_the_rest_from_a_folder(
    folder: Callable[[str], Path], file: Callable[[str], Path], tmp_path: Path
) -> None:
    head = "model.diffusion_model."
    alone = {n.removeprefix(head): t for n, t in load_file(file("flux")).items() if n.startswith(head)}
    save_file(alone, tmp_path / "unet.safetensors")
    pipe = load(tmp_path / "unet.safetensors", config=folder("flux"))
    same(picture(pipe, "flux"), picture(load(folder("flux")), "flux"))
    bare = load(tmp_path / "unet.safetensors")
    assert {problem.place for problem in bare.check()} == {"vae", "text_encoder", "text_encoder_2"}


def test_half_precision_files_and_pickles_that_are_asked_for(
    folder: Callable[[str], Path], file: Callable[[str], Path], tmp_path: Path
) -> None:
    want = picture(load(folder("sd1")), "sd1")
    tensors = load_file(file("sd1"))
    extra = {"global_step": 7, "state_dict": {**tensors, "model_ema.decay": torch.tensor(0.9), "betas": torch.ones(3)}}
    torch.save(extra, tmp_path / "old.ckpt")
    with pytest.raises(sf.LoadError, match=r"is a pickle, which can have code.* pass allow_pickle=True"):
        load(tmp_path / "old.ckpt")
    same(picture(load(tmp_path / "old.ckpt", allow_pickle=True, config=folder("sd1")), "sd1"), want)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "half.safetensors")
    half = load(tmp_path / "half.safetensors", config=folder("sd1"))
    assert (picture(half, "sd1") - want).abs().max() < 0.02
    assert held(half, "unet").dtype == torch.float32


def test_a_graph_of_a_file_is_saved_and_comes_back(
    folder: Callable[[str], Path], file: Callable[[str], Path], tmp_path: Path
) -> None:
    pipe = load(file("sd1"), config=folder("sd1"))
    pipe.save(tmp_path)
    own = sf.Access(folders=[file("sd1"), folder("sd1")])
    same(picture(sf.load(tmp_path, access=own), "sd1"), picture(pipe, "sd1"))


def test_files_of_known_families_need_no_config(file: Callable[[str], Path]) -> None:
    pipe = load(file("sdxl"))
    assert pipe.preset == ("sdxl", "text2image")
    assert held(pipe, "tokenizer")(["a photo of a cat"]).input_ids == [[49406, 320, 1125, 539, 320, 2368, 49407]]
    assert held(pipe, "tokenizer_2").pad_token_id == 0 and held(pipe, "tokenizer").pad_token_id == 49407
    assert pipe.bindings["scheduler"].load().to_config()["timestep_spacing"] == "leading"
    assert pipe.bindings["unet"].space == pipe.bindings["vae"].space


def test_velocity_is_told_from_the_file(file: Callable[[str], Path], tmp_path: Path) -> None:
    tensors = load_file(file("sdxl"))
    save_file({**tensors, "v_pred": torch.ones(0), "ztsnr": torch.ones(0)}, tmp_path / "v.safetensors")
    config = load(tmp_path / "v.safetensors").bindings["scheduler"].load().to_config()
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)


@pytest.mark.parametrize("wide", [False, True])
def test_stability_says_velocity_by_one_norm_alone(wide: bool, tmp_path: Path) -> None:
    levels = {"down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), "norm_num_groups": 4}
    levels |= {"up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, "block_out_channels": (8, 8, 8, 8)}
    unet = sf.models.UNet2DConditionModel(
        **levels, cross_attention_dim=1024, attention_head_dim=4, use_linear_projection=True
    )
    bias = unet.get_parameter("up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias")
    bias.data = torch.linspace(-1, 1, 8) * (1 if wide else 0.05)
    file = write_checkpoint(tmp_path / "sd2.safetensors", "sd2", {"unet": unet})
    spec = load(file).bindings
    assert spec["scheduler"].load().to_config()["prediction_type"] == ("v_prediction" if wide else "epsilon")
    assert spec["unet"].spec.config["sample_size"] == (96 if wide else 64)


# ---------------------------------------------------------------------------------------------------- one component
def test_one_component_of_a_file_of_a_folder_and_alone(
    folder: Callable[[str], Path], file: Callable[[str], Path], tmp_path: Path
) -> None:
    manager = fresh()
    want = sf.models.AutoencoderKL.from_pretrained(folder("sdxl") / "vae").state_dict()
    head = "first_stage_model."
    alone = {n.removeprefix(head): t for n, t in load_file(file("sdxl")).items() if n.startswith(head)}
    save_file(alone, tmp_path / "vae.safetensors")
    for x, subfolder in (
        (file("sdxl"), ""),
        (tmp_path / "vae.safetensors", ""),
        (folder("sdxl"), "vae"),
        (folder("sdxl") / "vae", ""),
        (folder("sdxl") / "vae" / "diffusion_pytorch_model.safetensors", ""),
    ):
        config = {"norm_num_groups": 4, "scaling_factor": 0.13025}
        vae = sf.load_component(x, "AutoencoderKL", manager=manager, config=config, subfolder=subfolder)
        assert vae.state_dict().keys() == want.keys() and vae.config.scaling_factor == 0.13025
        assert all(torch.equal(tensor, want[name]) for name, tensor in vae.state_dict().items()), x
    assert isinstance(sf.load_component(folder("sdxl") / "unet", manager=manager), sf.models.UNet2DConditionModel)


def test_a_control_net_alone_in_either_layout(diffusers: Any, tmp_path: Path) -> None:
    from sfumato.components.loading.single_file import latent_diffusion
    from sfumato.components.loading.single_file.tables import file_tensors, ties

    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "block_out_channels": (16, 32)}
    theirs = diffusers.ControlNetModel(
        **kinds, norm_num_groups=4, cross_attention_dim=12, attention_head_dim=2, layers_per_block=1
    )
    state = {name: torch.randn(tensor.shape) for name, tensor in theirs.state_dict().items()}
    save_file(state, tmp_path / "named.safetensors")
    rows = latent_diffusion.controlnet(theirs.config)
    save_file(file_tensors(state, ties(state, rows, "control_model.")), tmp_path / "original.safetensors")
    for name in ("named", "original"):
        net = sf.load_component(
            tmp_path / f"{name}.safetensors", manager=fresh(), config={"norm_num_groups": 4, "attention_head_dim": 2}
        )
        assert isinstance(net, sf.models.ControlNetModel)
        assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_told_with_its_parts_and_what_is_missing(
    family: str, folder: Callable[[str], Path], file: Callable[[str], Path]
) -> None:
    found = sf.inspect(file(family))
    told = {part.name: part for part in found.components}
    for name, model in models(folder(family)).items():
        count = sum(tensor.numel() for tensor in model.state_dict().values())
        assert (told[name].parameters, told[name].dtype, told[name].bytes) == (count, "float32", 4 * count), name
    # Tiny models do not have the groups and axes of their family, which shapes do not show.
    of_family = ("norm_num_groups", "axes_dims_rope")
    lacking = [line.partition(":")[0] for line in found.missing if not any(key in line for key in of_family)]
    assert [name for name in lacking if not name.startswith("tokenizer")] == []
    assert f"of {family} in the layout of its authors" in str(found)


def test_a_packed_file_of_original_layout_draws_what_its_decoded_tensors_draw(
    folder: Callable[[str], Path], file: Callable[[str], Path], tmp_path: Path
) -> None:
    gguf: Any = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q8_0
    head = "model.diffusion_model."
    decoded: dict[str, Tensor] = {}
    writer = gguf.GGUFWriter(str(tmp_path / "packed.gguf"), "flux")
    for name, tensor in load_file(file("flux")).items():
        if not name.startswith(head):
            continue
        data, short = tensor.float().numpy(), name.removeprefix(head)
        if data.ndim == 2 and data.shape[1] % 32 == 0:
            packed = gguf.quantize(data, kind)
            writer.add_tensor(short, packed, raw_dtype=kind)
            decoded[short] = torch.from_numpy(gguf.dequantize(packed, kind))
        else:
            writer.add_tensor(short, data)
            decoded[short] = tensor
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(decoded, tmp_path / "decoded.safetensors")
    packed_pipe = load(tmp_path / "packed.gguf", config=folder("flux"))
    plain = load(tmp_path / "decoded.safetensors", config=folder("flux"))
    assert (picture(packed_pipe, "flux") - picture(plain, "flux")).abs().max() < 1e-4
    told = {part.name: part for part in sf.inspect(tmp_path / "packed.gguf").components}["transformer"]
    assert told.dtype.startswith("Q8_0") and told.parameters == sum(t.numel() for t in decoded.values())
    assert type(held(packed_pipe, "transformer").transformer_blocks[0].attn.to_q).__name__ == "GGUFLinear"


# ---------------------------------------------------------------------------------------------------- what goes wrong
def test_what_a_file_does_not_hold_is_said(file: Callable[[str], Path], tmp_path: Path) -> None:
    save_file({"some.weight": torch.ones(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(sf.LoadError, match=r"holds no known model\. Known families are SD 1, SD 2"):
        load(tmp_path / "odd.safetensors")
    with pytest.raises(sf.LoadError, match="holds no known model; needs AutoencoderKL"):
        sf.load_component(tmp_path / "odd.safetensors", "AutoencoderKL")
    with pytest.raises(sf.LoadError, match=r"needs ControlNetModel\. Load one component: .*subfolder='unet'"):
        sf.load_component(file("sd1"), "ControlNetModel")
    with pytest.raises(sf.LoadError, match=r"no component class 'AutoencoderKl'\. Did you mean 'AutoencoderKL'"):
        sf.load_component(file("sd1"), "AutoencoderKl")
    with pytest.raises(sf.LoadError, match="there is no such file"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(sf.ConfigError, match="config= goes with a single file"):
        sf.load("emoji", config=tmp_path)


def test_tensors_that_do_not_fit_are_all_named_with_the_reason(
    folder: Callable[[str], Path], file: Callable[[str], Path], tmp_path: Path
) -> None:
    tensors = load_file(file("sd1"))
    head = "model.diffusion_model."
    del tensors[f"{head}input_blocks.1.0.in_layers.0.bias"]
    tensors[f"{head}input_blocks.1.0.stray.weight"] = torch.ones(1)
    tensors[f"{head}input_blocks.0.0.weight"] = torch.ones(16, 9, 3, 3)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(sf.LoadError) as caught:
        held(load(tmp_path / "bad.safetensors", config=folder("sd1")), "unet")
    text = str(caught.value)
    assert "missing: down_blocks.0.resnets.0.norm1.bias" in text
    assert f"unexpected: {head}input_blocks.1.0.stray.weight" in text
    assert "other shape: conv_in.weight is [16, 9, 3, 3] in bad.safetensors, wanted [16, 4, 3, 3]" in text


def test_configs_of_families_are_json_that_our_classes_take() -> None:
    from sfumato.components.loading.single_file.checkpoint import FAMILIES as FILES
    from sfumato.registry import resolve

    for path in FILES.glob("*.json"):
        told = json.loads(path.read_text())
        scheduler = told["scheduler"]
        assert sf.schedulers.DDIMScheduler if not scheduler else resolve(("diffusers", scheduler["_class_name"]))
        resolve(("diffusers", scheduler["_class_name"])).from_config(scheduler)
