"""The U-Net gives the reference's numbers for every family that uses it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

TOLERANCE = 1e-5  # float32; measured: at most 7e-7 on tiny models, 4e-6 on the embedded one

TINY = {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "sample_size": 8,
}
SDXL = {
    **TINY,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [2, 4],
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": TINY,
    "sd2": {**TINY, "attention_head_dim": [2, 4], "use_linear_projection": True, "upcast_attention": True},
    "sdxl": SDXL,
    "sdxl refiner": {
        **SDXL,
        "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [2, 4, 4],
        "transformer_layers_per_block": 2,
        "projection_class_embeddings_input_dim": 16 + 5 * 8,
    },
    "inpainting": {**TINY, "in_channels": 9},
    "lcm": {**TINY, "time_cond_proj_dim": 12},
    "x4 upscaler": {**TINY, "in_channels": 7, "num_class_embeds": 10, "only_cross_attention": [True, False]},
    "unclip": {**TINY, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 20},
    "classes as time": {**TINY, "class_embed_type": "timestep"},
    "classes as they are": {**TINY, "class_embed_type": "identity"},
    "audioldm": {
        **TINY,
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": 20,
        "class_embeddings_concat": True,
    },
    "kolors": {**SDXL, "encoder_hid_dim": 40, "encoder_hid_dim_type": "text_proj"},
    "segmind": {
        **SDXL,
        "mid_block_type": None,
        "transformer_layers_per_block": [1, [2, 1]],
        "reverse_transformer_layers_per_block": [[2, 1, 1], 1],
    },
    "prompt alone in all levels": {**TINY, "only_cross_attention": True},
    "prompt alone in the deepest level": {**TINY, "only_cross_attention": [False, True]},
    "without attention in the middle": {**TINY, "mid_block_type": "UNetMidBlock2D"},
    "scale and shift": {**TINY, "resnet_time_scale_shift": "scale_shift", "mid_block_scale_factor": 2.0},
    "rare keys": {
        **TINY,
        "center_input_sample": True,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "layers_per_block": [1, 2],
        "cross_attention_dim": [24, 24],
        "downsample_padding": 0,
        "act_fn": "gelu",
        "norm_eps": 1e-4,
        "conv_in_kernel": 1,
        "conv_out_kernel": 5,
        "out_channels": 6,
        "time_embedding_dim": 48,
        "time_embedding_act_fn": "silu",
        "timestep_post_act": "silu",
    },
}

Make = Callable[[str, dict[str, Any]], tuple[Any, Any]]
Apart = Callable[[Tensor, Tensor], float]


def inputs(config: dict[str, Any], size: tuple[int, int] = (8, 8)) -> dict[str, Any]:
    """All inputs of a U-Net of this config, for two rows."""
    config = {"in_channels": 4, **config}
    given: dict[str, Any] = {
        "sample": torch.randn(2, config["in_channels"], *size),
        "timestep": torch.tensor([7, 501]),
        "encoder_hidden_states": torch.randn(2, 5, config.get("encoder_hid_dim") or 24),
    }
    if config.get("addition_embed_type"):
        numbers = (config["projection_class_embeddings_input_dim"] - 16) // config["addition_time_embed_dim"]
        given["added_cond_kwargs"] = {"text_embeds": torch.randn(2, 16), "time_ids": torch.rand(2, numbers) * 1024}
    if "time_cond_proj_dim" in config:
        given["timestep_cond"] = torch.randn(2, config["time_cond_proj_dim"])
    if config.get("num_class_embeds"):
        given["class_labels"] = torch.tensor([3, 9])
    match config.get("class_embed_type"):
        case "timestep":
            given["class_labels"] = torch.tensor([3, 9])
        case "identity":
            given["class_labels"] = torch.randn(2, 128)
        case "projection" | "simple_projection":
            given["class_labels"] = torch.randn(2, 20)
        case _:
            pass
    return given


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_of_the_reference_gives_its_numbers(name: str, read_by_us: Make, apart: Apart) -> None:
    model, theirs = read_by_us("UNet2DConditionModel", CONFIGS[name])
    given = inputs(CONFIGS[name])
    assert apart(model(**given), theirs(**given).sample) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_the_reference_reads_our_folder_and_agrees(name: str, read_by_them: Make, apart: Apart) -> None:
    model, theirs = read_by_them("UNet2DConditionModel", CONFIGS[name])
    given = inputs(CONFIGS[name])
    assert apart(model(**given), theirs(**given).sample) < TOLERANCE


@pytest.mark.parametrize("size", [(7, 9), (8, 10), (5, 6)])
def test_any_height_and_width_work(size: tuple[int, int], read_by_us: Make, apart: Apart) -> None:
    model, theirs = read_by_us("UNet2DConditionModel", CONFIGS["sdxl refiner"])
    given = inputs(CONFIGS["sdxl refiner"], size)
    assert apart(model(**given), theirs(**given).sample) < TOLERANCE


@pytest.mark.parametrize("timestep", [500, 499.5, torch.tensor(500), torch.tensor([499.5])])
def test_a_time_is_a_number_or_a_tensor(timestep: Any, read_by_us: Make, apart: Apart) -> None:
    model, theirs = read_by_us("UNet2DConditionModel", TINY)
    given = {**inputs(TINY), "timestep": timestep}
    assert apart(model(**given), theirs(**given).sample) < TOLERANCE


def test_padding_of_the_prompt_is_masked(read_by_us: Make, apart: Apart) -> None:
    model, theirs = read_by_us("UNet2DConditionModel", TINY)
    given = {**inputs(TINY), "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])}
    assert apart(model(**given), theirs(**given).sample) < TOLERANCE


def test_a_prompt_of_padding_alone_gives_numbers() -> None:
    model = UNet2DConditionModel.from_config(TINY)
    given = {**inputs(TINY), "encoder_attention_mask": torch.zeros(2, 5)}
    assert model(**given).isfinite().all()


def test_residuals_are_added_in_the_published_order(read_by_us: Make, apart: Apart) -> None:
    model, theirs = read_by_us("UNet2DConditionModel", TINY)
    shapes = [(32, 8)] * 3 + [(32, 4)] + [(64, 4)] * 2
    down = [torch.randn(2, channels, size, size) for channels, size in shapes]
    given = {**inputs(TINY), "mid_block_additional_residual": torch.randn(2, 64, 4, 4)}
    answer = model(**given, down_block_additional_residuals=down)
    assert apart(answer, theirs(**given, down_block_additional_residuals=tuple(down)).sample) < TOLERANCE


def test_residuals_of_another_net_are_refused() -> None:
    model = UNet2DConditionModel.from_config(TINY)
    with pytest.raises(TypeError, match="needs 6 tensors, got 1"):
        model(**inputs(TINY), down_block_additional_residuals=[torch.zeros(1)])


def test_a_model_names_the_inputs_that_it_needs() -> None:
    given = inputs(TINY)
    with pytest.raises(
        TypeError, match="Needs added_cond_kwargs with text_embeds and time_ids, got no text_embeds and no time_ids"
    ):
        UNet2DConditionModel.from_config(SDXL)(**given)
    with pytest.raises(TypeError, match="Needs class_labels, got None"):
        UNet2DConditionModel.from_config(CONFIGS["unclip"])(**given)
    with pytest.raises(TypeError, match="Got class_labels, but this model does not read it"):
        UNet2DConditionModel.from_config(TINY)(**given, class_labels=torch.tensor([1, 2]))
    with pytest.raises(TypeError, match="time_cond_proj_dim is null"):
        UNet2DConditionModel.from_config(TINY)(**given, timestep_cond=torch.zeros(2, 4))


def test_the_embedded_model_gives_the_references_numbers(emoji: Path, reference: Any, apart: Apart) -> None:
    model = UNet2DConditionModel.from_pretrained(emoji, subfolder="unet")
    theirs = reference.UNet2DConditionModel.from_pretrained(emoji, subfolder="unet").eval()
    given = {"sample": torch.randn(2, 8, 8, 8), "timestep": 500, "encoder_hidden_states": torch.randn(2, 77, 128)}
    assert apart(model(**given), theirs(**given).sample) < TOLERANCE


def test_rows_do_not_see_each_other(apart: Apart) -> None:
    model = UNet2DConditionModel.from_config(TINY).eval()
    given = inputs(TINY)
    alone = {key: value[1:] for key, value in given.items()}
    assert apart(model(**given)[1:], model(**alone)) < TOLERANCE


def test_it_compiles_without_a_break() -> None:
    model = UNet2DConditionModel.from_config(SDXL).eval()
    given = inputs(SDXL)
    compiled = cast("UNet2DConditionModel", torch.compile(model, backend="eager", fullgraph=True))
    assert torch.equal(compiled(**given), model(**given))


def test_it_trains() -> None:
    model = UNet2DConditionModel.from_config(TINY)
    with torch.enable_grad():
        model(**inputs(TINY)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


SD1 = {"cross_attention_dim": 768, "sample_size": 64}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
FULL_SDXL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.mark.parametrize(
    ("config", "count"),
    [(SD1, 859_520_964), (SD2, 865_910_724), (FULL_SDXL, 2_567_463_684)],
    ids=["sd1.5", "sd2.1", "sdxl"],
)
def test_full_size_models_have_the_published_tensors(config: dict[str, Any], count: int, reference: Any) -> None:
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(config)
        theirs = reference.UNet2DConditionModel.from_config(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == count


def test_a_config_goes_round(reference: Any) -> None:
    config = UNet2DConditionModel.from_config(CONFIGS["rare keys"]).to_config()
    assert list(config) == sorted(config)
    assert UNet2DConditionModel.from_config(json.loads(json.dumps(config))).to_config() == config
    theirs = dict(reference.UNet2DConditionModel.from_config(CONFIGS["rare keys"]).config)
    published = {key: value for key, value in json.loads(json.dumps(theirs)).items() if not key.startswith("_")}
    assert {key: value for key, value in config.items() if key != "_class_name"} == published
