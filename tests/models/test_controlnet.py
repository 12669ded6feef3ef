"""Control nets and adapters give the reference's numbers, under the published names."""

import json
from collections.abc import Callable
from itertools import product
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sfumato import ConfigError
from sfumato.components.models.controlnet import ControlNetModel
from sfumato.components.models.controlnet_union import ControlNetUnionModel
from sfumato.components.models.t2i_adapter import T2IAdapter
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

from .test_unet_2d_condition import CONFIGS as UNETS
from .test_unet_2d_condition import FULL_SDXL, SDXL, TINY
from .test_unet_2d_condition import inputs as unet_inputs

TOLERANCE = 1e-5  # float32; measured: at most 2e-6
SMALL = {"conditioning_embedding_out_channels": [8, 12, 16, 16]}


def control(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The config of a control net for a U-Net of this config."""
    keys = ControlNetModel.config_class.model_fields
    return {key: value for key, value in {**SMALL, **config, **more}.items() if key in keys}


CONTROL: dict[str, dict[str, Any]] = {
    "sd1": control(TINY),
    "sd2": control(UNETS["sd2"]),
    "sdxl": control(SDXL),
    "sdxl refiner": control(UNETS["sdxl refiner"]),
    "bgr": control(TINY, controlnet_conditioning_channel_order="bgr"),
    "shuffle": control(TINY, global_pool_conditions=True),
    "a shallow embedding of four channels": control(
        TINY, conditioning_channels=4, conditioning_embedding_out_channels=[8, 16]
    ),
    "without attention in the middle": control(TINY, mid_block_type="UNetMidBlock2D"),
    "classes": control(TINY, num_class_embeds=10),
    "classes as time": control(TINY, class_embed_type="timestep"),
    "rare keys": control(
        TINY,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        act_fn="gelu",
        norm_eps=1e-4,
        mid_block_scale_factor=2.0,
        resnet_time_scale_shift="scale_shift",
        only_cross_attention=[True, False],
    ),
}
UNION = {
    "sd1": {
        **{k: v for k, v in control(TINY).items() if k != "mid_block_type"},
        "addition_time_embed_dim": 8,
        "num_trans_channel": 32,
        "num_proj_channel": 32,
        "num_trans_head": 4,
        "num_trans_layer": 2,
    },
}
UNION["sdxl"] = {**UNION["sd1"], **control(SDXL), "num_control_type": 8}

Make = Callable[[str, dict[str, Any]], tuple[Any, Any]]
Apart = Callable[[Tensor, Tensor], float]


def inputs(config: dict[str, Any], size: tuple[int, int] = (8, 8)) -> dict[str, Any]:
    """All inputs of a control net of this config but its images, for two rows."""
    return unet_inputs(config, size)


def picture(config: dict[str, Any], size: tuple[int, int] = (8, 8)) -> Tensor:
    factor = 2 ** (len(config["conditioning_embedding_out_channels"]) - 1)
    return torch.rand(2, config.get("conditioning_channels", 3), size[0] * factor, size[1] * factor)


def rows(value: Any, which: list[int]) -> Any:
    """Some rows of all tensors inside."""
    match value:
        case Tensor():
            return value[which]
        case dict():
            return {name: rows(v, which) for name, v in cast("dict[str, Any]", value).items()}
        case [Tensor(), *_]:
            return [rows(v, which) for v in cast("list[Any]", value)]
        case _:
            return value


def randomize_zeros(*models: nn.Module) -> None:
    """Fill the layers of zeros with random numbers, the same in all models."""
    weights: list[tuple[Tensor, ...]] = list(
        zip(*(dict(sorted(m.state_dict().items())).values() for m in models), strict=True)
    )
    for same in weights:
        value = torch.randn_like(same[0]) * 0.1
        if not same[0].any():
            for weight in same:
                weight.copy_(value)


def furthest(ours: Any, theirs: Any, apart: Apart) -> float:
    """The largest difference of two outputs."""
    down = [apart(a, b) for a, b in zip(ours[0], theirs.down_block_res_samples, strict=True)]
    assert max(float(t.abs().max()) for t in (*ours[0], ours[1])) > 0.01
    return max(*down, apart(ours[1], theirs.mid_block_res_sample))


HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"conditioning_scale": 0.4},
    "guessing": {"conditioning_scale": 0.7, "guess_mode": True},
}


@pytest.mark.parametrize("name", CONTROL)
def test_a_folder_of_the_reference_gives_its_numbers(name: str, read_by_us: Make, apart: Apart) -> None:
    model, theirs = read_by_us("ControlNetModel", CONTROL[name])
    randomize_zeros(model, theirs)
    for how in HOW.values():
        given = {**inputs(CONTROL[name]), "controlnet_cond": picture(CONTROL[name]), **how}
        assert furthest(model(**given), theirs(**given), apart) < TOLERANCE


@pytest.mark.parametrize("name", CONTROL)
def test_the_reference_reads_our_folder_and_agrees(name: str, read_by_them: Make, apart: Apart) -> None:
    model, theirs = read_by_them("ControlNetModel", CONTROL[name])
    randomize_zeros(model, theirs)
    given = {**inputs(CONTROL[name]), "controlnet_cond": picture(CONTROL[name])}
    assert furthest(model(**given), theirs(**given), apart) < TOLERANCE


@pytest.mark.parametrize("size", [(7, 9), (5, 6)])
def test_any_height_and_width_work(size: tuple[int, int], read_by_us: Make, apart: Apart) -> None:
    config = CONTROL["sdxl refiner"]
    model, theirs = read_by_us("ControlNetModel", config)
    randomize_zeros(model, theirs)
    given = {**inputs(config, size), "controlnet_cond": picture(config, size)}
    assert furthest(model(**given), theirs(**given), apart) < TOLERANCE


def test_a_control_net_of_kolors_reads_the_prompt_through_its_own_projection(read_by_us: Make, apart: Apart) -> None:
    """In the reference the caller does this."""
    config = control(UNETS["kolors"])
    model, theirs = read_by_us("ControlNetModel", config)
    randomize_zeros(model, theirs)
    given = {**inputs(config), "controlnet_cond": picture(config)}
    projected = {**given, "encoder_hidden_states": theirs.encoder_hid_proj(given["encoder_hidden_states"])}
    assert furthest(model(**given), theirs(**projected), apart) < TOLERANCE


# --------------------------------------------------------------------------------------------------------------- union
def union_inputs(config: dict[str, Any], kinds: list[int]) -> dict[str, Any]:
    """Two equal rows: the inputs of the reference's pipelines for one image with guidance (see below)."""
    given = rows(inputs(config), [0, 0])
    count = config.get("num_control_type", 6)
    there = torch.tensor([[1.0 if k in kinds else 0.0 for k in range(count)]] * 2)
    pictures = [rows(picture(config), [0, 0]) for _ in kinds]
    return {**given, "controlnet_cond": pictures, "control_type": there, "control_type_idx": kinds}


@pytest.mark.parametrize("name", UNION)
def test_a_union_of_the_reference_gives_its_numbers(name: str, read_by_us: Make, apart: Apart) -> None:
    model, theirs = read_by_us("ControlNetUnionModel", UNION[name])
    randomize_zeros(model, theirs)
    for kinds, how in product(([3], [1, 4], [0, 2, 5]), HOW.values()):
        given = {**union_inputs(UNION[name], kinds), **how}
        assert furthest(model(**given), theirs(**given), apart) < TOLERANCE


def test_a_union_weighs_each_image(read_by_them: Make, apart: Apart) -> None:
    model, theirs = read_by_them("ControlNetUnionModel", UNION["sdxl"])
    randomize_zeros(model, theirs)
    given = {**union_inputs(UNION["sdxl"], [1, 4]), "conditioning_scale": [0.2, 0.9]}
    assert furthest(model(**given), theirs(**given), apart) < TOLERANCE


def test_rows_of_a_union_do_not_see_each_other(read_by_us: Make, apart: Apart) -> None:
    """In the reference they do: its attention mistakes the batch for the sequence. Single rows are equal."""
    config = UNION["sdxl"]
    model, theirs = read_by_us("ControlNetUnionModel", config)
    randomize_zeros(model, theirs)
    given = {**union_inputs(config, [1, 4]), **inputs(config)}
    dark_and_bright = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    given["controlnet_cond"] = [picture(config) * dark_and_bright, picture(config)]
    for net in (model, theirs):
        net.task_embedding.mul_(0.01)  # so that what tells rows apart is not lost beside it
    down, mid = model(**given)
    for i in range(2):
        ours = tuple(t[i : i + 1] for t in down), mid[i : i + 1]
        assert furthest(ours, theirs(**rows(given, [i])), apart) < TOLERANCE
    assert apart(mid, theirs(**given).mid_block_res_sample) > 5 * TOLERANCE


def test_a_union_names_the_inputs_that_it_needs() -> None:
    model = ControlNetUnionModel.from_config(UNION["sd1"])
    given = union_inputs(UNION["sd1"], [1, 4])
    with pytest.raises(
        ValueError, match="one kind and one scale for each control image, got 2 images, 1 kinds and 2 scales"
    ):
        model(**{**given, "control_type_idx": [1]})
    with pytest.raises(ValueError, match=r"control_type needs shape \(2, 6\), got \(2, 4\)"):
        model(**{**given, "control_type": torch.zeros(2, 4)})
    with pytest.raises(ConfigError, match=r"num_trans_channel .*needs the width of the first level, 32, got 320"):
        ControlNetUnionModel.from_config({**UNION["sd1"], "num_trans_channel": 320})


# -------------------------------------------------------------------------------------------------------- what they say
def test_an_image_of_another_size_is_refused_with_the_right_size() -> None:
    model = ControlNetModel.from_config(CONTROL["sd1"])
    with pytest.raises(ValueError, match=r"controlnet_cond needs 3 x 64 x 64 .*got 3 x 8 x 8"):
        model(**inputs(TINY), controlnet_cond=torch.zeros(2, 3, 8, 8))


def test_residuals_of_a_wider_net_are_refused_with_both_sizes() -> None:
    down = ControlNetModel.from_config(control(TINY, block_out_channels=[32, 32]))(
        **inputs(TINY), controlnet_cond=picture(CONTROL["sd1"])
    )[0]
    with pytest.raises(TypeError, match=r"needs a tensor of 64 x 4 x 4 .*got 32 x 4 x 4: made for another model"):
        UNet2DConditionModel.from_config(TINY)(**inputs(TINY), down_block_additional_residuals=down)


# ------------------------------------------------------------------------------------------------------------ training
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "unclip"])
def test_a_control_net_from_a_unet_is_the_references(name: str, read_by_us: Make, reference: Any, apart: Apart) -> None:
    unet, theirs = read_by_us("UNet2DConditionModel", UNETS[name])
    net = ControlNetModel.from_unet(unet)
    other = reference.ControlNetModel.from_unet(theirs)
    mine, copied = net.state_dict(), other.state_dict()
    assert mine.keys() == copied.keys()
    drawn = "controlnet_cond_embedding."
    assert all(torch.equal(mine[key], copied[key]) for key in mine if not key.startswith(drawn))
    ours = {key: value for key, value in net.to_config().items() if key != "_class_name"}
    published = {key: value for key, value in json.loads(json.dumps(dict(other.config))).items() if key[0] != "_"}
    assert ours == published


def test_a_control_net_from_a_unet_adds_nothing_and_learns() -> None:
    unet = UNet2DConditionModel.from_config(TINY).requires_grad_(False)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=[8, 8, 8, 8])
    given = {**inputs(TINY), "controlnet_cond": torch.rand(2, 3, 64, 64)}
    down, mid = net(**given)
    assert not any(t.any() for t in (*down, mid))
    with torch.enable_grad():
        down, mid = net(**given)
        noise = unet(**inputs(TINY), down_block_additional_residuals=down, mid_block_additional_residual=mid)
        noise.square().mean().backward()
    led = [p for n, p in net.named_parameters() if n.startswith(("controlnet_down", "controlnet_mid"))]
    assert all(p.grad is not None and p.grad.any() for p in led)
    assert all(p.grad is None for p in unet.parameters())


def test_a_copy_of_a_unet_is_its_own() -> None:
    unet = UNet2DConditionModel.from_config(TINY)
    net = ControlNetModel.from_unet(unet)
    before = unet.conv_in.weight.clone()
    net.conv_in.weight.zero_()
    assert torch.equal(unet.conv_in.weight, before)
    random = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    assert not torch.equal(random.conv_in.weight, before)


def test_it_compiles_without_a_break() -> None:
    model = ControlNetModel.from_config(CONTROL["sdxl"]).eval()
    given = {**inputs(SDXL), "controlnet_cond": picture(CONTROL["sdxl"])}
    compiled = cast("ControlNetModel", torch.compile(model, backend="eager", fullgraph=True))
    assert torch.equal(compiled(**given)[1], model(**given)[1])


# ----------------------------------------------------------------------------------------------------------- full size
CONTROL_XL = control({**FULL_SDXL, "conditioning_embedding_out_channels": [16, 32, 96, 256]})
FULL: dict[str, tuple[str, dict[str, Any], int]] = {
    "sd1.5": ("ControlNetModel", {"cross_attention_dim": 768}, 361_279_120),
    "sdxl": ("ControlNetModel", CONTROL_XL, 1_251_014_160),
    "union for sdxl": (
        "ControlNetUnionModel",
        {**CONTROL_XL, "conditioning_embedding_out_channels": [48, 96, 192, 384]},
        1_257_287_280,
    ),
}


@pytest.mark.parametrize("name", FULL)
def test_full_size_models_have_the_published_tensors(name: str, reference: Any) -> None:
    kind, config, count = FULL[name]
    ours = {"ControlNetModel": ControlNetModel, "ControlNetUnionModel": ControlNetUnionModel}[kind]
    with torch.device("meta"):
        model, theirs = ours.from_config(config), getattr(reference, kind).from_config(config)
    shapes = {n: t.shape for n, t in model.state_dict().items()}
    assert shapes == {n: t.shape for n, t in theirs.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("kind", ["ControlNetModel", "ControlNetUnionModel", "T2IAdapter"])
def test_configs_have_the_published_keys_and_defaults(kind: str, reference: Any) -> None:
    ours: Any = {"ControlNetModel": ControlNetModel, "ControlNetUnionModel": ControlNetUnionModel}.get(kind, T2IAdapter)
    given = {"addition_time_embed_dim": 256} if kind == "ControlNetUnionModel" else {}
    with torch.device("meta"):
        config = ours.from_config(given).to_config()
        theirs = dict(getattr(reference, kind)(**given).config)
    published = {key: value for key, value in json.loads(json.dumps(theirs)).items() if key[0] != "_"}
    assert {key: value for key, value in config.items() if key != "_class_name"} == published


# ------------------------------------------------------------------------------------------------------------ adapters
ADAPTERS: dict[str, dict[str, Any]] = {
    "full": {"channels": [32, 64, 64], "num_res_blocks": 2},
    "full, grey": {"channels": [32, 64], "in_channels": 1, "num_res_blocks": 1, "downscale_factor": 4},
    "light": {"channels": [32, 64], "num_res_blocks": 3, "adapter_type": "light_adapter"},
    "xl": {
        "channels": [32, 64, 96, 96],
        "num_res_blocks": 2,
        "downscale_factor": 16,
        "adapter_type": "full_adapter_xl",
    },
}


@pytest.mark.parametrize("side", [64, 48])
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_give_the_references_features(
    name: str, side: int, read_by_us: Make, read_by_them: Make, apart: Apart
) -> None:
    config = ADAPTERS[name]
    image = torch.rand(2, config.get("in_channels", 3), side, side + 16)
    for pair in (read_by_us, read_by_them):
        model, theirs = pair("T2IAdapter", config)
        ours, wanted = model(image), theirs(image)
        assert len(ours) == len(wanted)
        assert max(apart(a, b) for a, b in zip(ours, wanted, strict=True)) < TOLERANCE


ADDED = {
    "sd: attention first": (TINY, {"channels": [32, 64]}),
    "sdxl: a level without attention first": (
        {
            **SDXL,
            "block_out_channels": [32, 64, 64],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": [2, 4, 4],
            "transformer_layers_per_block": [1, 1, 2],
        },
        {"channels": [32, 64, 64, 64], "downscale_factor": 16, "adapter_type": "full_adapter_xl"},
    ),
}


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize("name", ADDED)
def test_features_are_added_where_the_reference_adds_them(
    name: str, size: tuple[int, int], read_by_us: Make, apart: Apart
) -> None:
    config, adapter = ADDED[name]
    model, theirs = read_by_us("UNet2DConditionModel", config)
    net = T2IAdapter.from_config(adapter)
    features = net(torch.rand(2, 3, *net.image_size(*size)))
    given = inputs(config, size)
    answer = model(**given, down_intrablock_additional_residuals=features)
    wanted = theirs(**given, down_intrablock_additional_residuals=[f.clone() for f in features]).sample
    assert apart(answer, wanted) < TOLERANCE
    assert apart(answer, model(**given)) > 0.01


def test_features_of_another_model_are_refused() -> None:
    model = UNet2DConditionModel.from_config(TINY)
    with pytest.raises(TypeError, match="needs 2 tensors, or one more for the middle, got 4"):
        model(**inputs(TINY), down_intrablock_additional_residuals=[torch.zeros(1)] * 4)
    with pytest.raises(TypeError, match=r"needs a tensor of 32 x 8 x 8 .*got 16 x 8 x 8"):
        model(
            **inputs(TINY),
            down_intrablock_additional_residuals=T2IAdapter(channels=[16, 64])(torch.zeros(2, 3, 64, 64)),
        )
    with pytest.raises(ValueError, match=r"Needs an image of 3 channels .*got 3 x 60 x 64"):
        T2IAdapter(channels=[16])(torch.zeros(2, 3, 60, 64))


@pytest.mark.parametrize("kind", [ControlNetModel, ControlNetUnionModel])
def test_an_image_that_is_embedded_once_gives_the_same_residuals(kind: Any) -> None:
    net = kind(**(CONTROL["bgr"] if kind is ControlNetModel else UNION["sd1"]))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, prompt = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24)
    image = torch.rand(2, 3, *net.image_size(8, 8))
    if kind is ControlNetModel:
        plain, embedded = (net(x, 7, prompt, one) for one in (image, net.embed_image(image)))
    else:
        types = torch.zeros(2, net.config.num_control_type)
        types[:, 1] = 1
        plain, embedded = (net(x, 7, prompt, [one], types, [1]) for one in (image, net.embed_image(image, 1, 1.0)))
    for a, b in zip(plain.down_block_res_samples, embedded.down_block_res_samples, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain.mid_block_res_sample, embedded.mid_block_res_sample)
