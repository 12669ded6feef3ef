"""Adapters saved in each layout: the file read again changes every matrix as the adapter does."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import sfumato as sf
from sfumato import Adapter, ConfigError, SaveError
from sfumato.components.adapters.attach import patches_of
from sfumato.components.adapters.known_models import names_in
from sfumato.components.adapters.layouts import LAYOUTS, Layout
from sfumato.components.adapters.placing import place
from sfumato.components.adapters.reading import adapter_of

MODELS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "sd": ("unet", "UNet2DConditionModel", {
        "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 32,
        "attention_head_dim": 2, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }),
    "sdxl": ("unet", "UNet2DConditionModel", {
        "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 32,
        "attention_head_dim": 2, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 40,
    }),
    "flux": ("transformer", "FluxTransformer2DModel", {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 4,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8],
    }),
    "sd3": ("transformer", "SD3Transformer2DModel", {
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "in_channels": 4, "sample_size": 8,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "caption_projection_dim": 32, "out_channels": 4,
        "pos_embed_max_size": 8,
    }),
    "pixart": ("transformer", "PixArtTransformer2DModel", {
        "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4, "in_channels": 4, "out_channels": 8,
        "cross_attention_dim": 32, "caption_channels": 32, "sample_size": 8,
    }),
}  # fmt: skip


@cache
def pipe(family: str) -> Any:  # as much of a graph as names need
    torch.manual_seed(0)
    component, name, config = MODELS[family]
    made: Any = sf.registry.models[name].from_config(config)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return SimpleNamespace(bindings={component: made.eval().requires_grad_(False)})


def model(family: str) -> nn.Module:
    return pipe(family).bindings[MODELS[family][0]]


def dense(adapter: Adapter, family: str) -> Mapping[str, Tensor]:
    """What the adapter adds to each weight and bias of our layers, at its strength."""
    component = MODELS[family][0]
    placed = place(adapter.content, names_in(pipe(family).bindings), adapter.name).placed[component]
    made = patches_of(model(family), [placed])
    strength = torch.tensor([adapter.strength_of(component)])
    return {
        f"{path}.{name}": tensor
        for path, patches in made.layers.items()
        for name, tensor in patches.differences(strength).items()
    }


def saved(adapter: Adapter, family: str, folder: Path, layout: Layout) -> Adapter:
    return sf.load_adapter(adapter.save(folder / f"{layout}.safetensors", layout, pipe=pipe(family)))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two differences are equal within 1e-6. Layers without a difference may be absent."""
    zero = torch.zeros(())
    return all((one.get(key, zero) - other.get(key, zero)).abs().max() < 1e-6 for key in {*one, *other})


def lora(family: str) -> dict[str, Tensor]:
    """LoRA of differing ranks for every linear layer and convolution, by our names, with a bias here and there."""
    torch.manual_seed(1)
    tensors: dict[str, Tensor] = {}
    layers = [(n, m) for n, m in model(family).named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for number, (name, layer) in enumerate(layers):
        rank = 1 + number % 3
        down = torch.randn(rank, *layer.weight.shape[1:]) * 0.3
        up = torch.randn(len(layer.weight), rank, *[1] * (layer.weight.ndim - 2)) * 0.3
        body = f"{MODELS[family][0]}.{name}"
        tensors |= {
            f"{body}.lora_down.weight": down,
            f"{body}.lora_up.weight": up,
            f"{body}.alpha": torch.tensor(3.0),
        }
        if layer.bias is not None and number % 5 == 0:
            tensors[f"{body}.diff_b"] = torch.randn(len(up)) * 0.1
    return tensors


def made(tensors: Mapping[str, Tensor], **header: str) -> Adapter:
    return adapter_of(tensors.items(), name="a", source="a", header=header)


# --------------------------------------------------------------------------------------------------- every matrix
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", MODELS)
def test_lora_of_every_layer_changes_the_same_after_a_save(family: str, layout: Layout, tmp_path: Path) -> None:
    """Fused matrices are joined from layers of which some have no patch, halves are swapped, scales differ."""
    tensors = lora(family)
    adapter = made({key: t for key, t in tensors.items() if ".to_k." not in key}).scaled(0.6)
    again = saved(adapter, family, tmp_path, layout)
    assert again.strength == 1.0
    assert same(dense(again, family), dense(adapter, family))
    assert len(dense(again, family)) >= len(dense(adapter, family)) > 10


@pytest.mark.parametrize(
    ("family", "layout", "name"),
    [
        ("sd", "kohya", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"),
        ("sd", "comfy", "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_down.weight"),
        ("sd", "peft", "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"),
        ("sdxl", "kohya", "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.lora_down.weight"),
        ("flux", "kohya", "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"),
        ("flux", "comfy", "diffusion_model.single_blocks.0.linear1.lora_down.weight"),
        ("flux", "peft", "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"),
        ("sd3", "kohya", "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight"),
    ],
)
def test_names_are_those_that_other_programs_read(family: str, layout: Layout, name: str, tmp_path: Path) -> None:
    file = made(lora(family)).save(tmp_path / "a.safetensors", layout, pipe=pipe(family))
    with safe_open(file, "pt") as opened:
        assert name in opened.keys()  # noqa: SIM118  no mapping


def test_a_fused_matrix_is_restored_with_its_rank(tmp_path: Path) -> None:
    """Split for PEFT, the layers share `down`; joined again, it is the first file, to the bit."""
    torch.manual_seed(2)
    body = "lora_unet_double_blocks_0_img_attn_qkv"
    file = {
        f"{body}.lora_down.weight": torch.randn(2, 32), f"{body}.lora_up.weight": torch.randn(96, 2),
        f"{body}.alpha": torch.tensor(2.0),
    }  # fmt: skip
    split = saved(made(file), "flux", tmp_path, "peft")
    assert split.kinds == {"LoRA": 3}
    joined = saved(split, "flux", tmp_path, "kohya").patches
    assert [named.body for named in joined] == [body]
    first, last = (patches[0].patch.difference(torch.zeros(96, 32)) for patches in (made(file).patches, joined))
    assert torch.equal(first, last)


# ------------------------------------------------------------------------------------------------------ every kind
BODY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"


def randoms(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {name: torch.randn(*shape) * 0.3 if shape else torch.tensor(3.0) for name, shape in shapes.items()}


LORA = randoms(**{"lora_down.weight": (2, 16), "lora_up.weight": (16, 2), "alpha": ()})
LOHA = randoms(hada_w1_a=(16, 2), hada_w1_b=(2, 16), hada_w2_a=(16, 2), hada_w2_b=(2, 16), alpha=())
BY_LYCORIS: tuple[Layout, ...] = ("kohya", "comfy", "lycoris")
KINDS: Mapping[str, tuple[str, dict[str, Tensor], tuple[Layout, ...]]] = {
    "LoRA": (BODY, LORA, LAYOUTS),
    "LoCon in Tucker's form": (CONV, randoms(**{
        "lora_down.weight": (2, 16, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (16, 2, 1, 1),
        "alpha": (),
    }), LAYOUTS),
    "DoRA on rows": (BODY, {**LORA, "dora_scale": torch.rand(16, 1) + 0.5}, LAYOUTS),
    "DoRA on columns": (BODY, {**LORA, "dora_scale": torch.rand(1, 16) + 0.5}, BY_LYCORIS),
    "DoRA of LoHa": (BODY, {**LOHA, "dora_scale": torch.rand(16, 1) + 0.5}, BY_LYCORIS),
    "LoHa": (BODY, LOHA, BY_LYCORIS),
    "LoHa in Tucker's form": (CONV, randoms(
        hada_w1_a=(2, 16), hada_w1_b=(2, 16), hada_w2_a=(2, 16), hada_w2_b=(2, 16),
        hada_t1=(2, 2, 3, 3), hada_t2=(2, 2, 3, 3), alpha=(),
    ), BY_LYCORIS),
    "LoKr": (BODY, randoms(lokr_w1=(4, 4), lokr_w2_a=(4, 2), lokr_w2_b=(2, 4), alpha=()), BY_LYCORIS),
    "LoKr of whole factors": (BODY, randoms(lokr_w1=(4, 4), lokr_w2=(4, 4)), BY_LYCORIS),
    "OFT of LyCORIS": (BODY, randoms(oft_blocks=(4, 4, 4), rescale=(16, 1), alpha=()), BY_LYCORIS),
    "BOFT of LyCORIS": (BODY, randoms(oft_blocks=(2, 4, 4, 4)), BY_LYCORIS),
    "OFT of PEFT": (BODY, randoms(**{"oft_R.weight": (4, 6)}), ("peft",)),
    "BOFT of PEFT": (BODY, randoms(boft_R=(1, 4, 4, 4), boft_s=(16, 1)), ("peft",)),
    "IA3 of LyCORIS": (BODY, {**randoms(weight=(16,)), "on_input": torch.tensor(1)}, LAYOUTS),
    "IA3 of PEFT": (BODY, randoms(ia3_l=(16, 1)), ("peft",)),
    "GLoRA": (BODY, randoms(**{f"{n}.weight": s for n, s in {
        "a1": (16, 2), "a2": (2, 16), "b1": (16, 2), "b2": (2, 16)}.items()}, alpha=()), BY_LYCORIS),
    "a whole difference": (CONV, randoms(diff=(16, 16, 3, 3), diff_b=(16,)), BY_LYCORIS),
    "a norm": ("lora_unet_conv_norm_out", randoms(w_norm=(16,), b_norm=(16,)), BY_LYCORIS),
    "a whole matrix": (BODY, randoms(set_weight=(16, 16)), ("comfy",)),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_saved_where_the_layout_can_express_it(kind: str, layout: Layout, tmp_path: Path) -> None:
    body, tensors, layouts = KINDS[kind]
    adapter = made({f"{body}.{end}": tensor for end, tensor in tensors.items()})
    if layout in layouts:
        assert same(dense(saved(adapter, "sd", tmp_path, layout), "sd"), dense(adapter, "sd"))
        return
    with pytest.raises(SaveError, match=rf"the layout '{layout}' cannot express .*layout='{layouts[0]}'"):
        saved(adapter, "sd", tmp_path, layout)
    assert not [*tmp_path.iterdir()]


def test_a_kind_that_does_not_divide_keeps_to_the_fused_layouts(tmp_path: Path) -> None:
    body = "lora_unet_double_blocks_0_img_attn_qkv"
    loha = made({
        f"{body}.{name}": torch.randn(shape) for name, shape in
        {"hada_w1_a": (96, 2), "hada_w1_b": (2, 32), "hada_w2_a": (96, 2), "hada_w2_b": (2, 32)}.items()
    })  # fmt: skip
    for layout in ("kohya", "comfy"):
        assert same(dense(saved(loha, "flux", tmp_path, layout), "flux"), dense(loha, "flux"))
    with pytest.raises(SaveError) as raised:
        saved(loha, "flux", tmp_path, "peft")
    assert str(raised.value).endswith(
        "lora_unet_double_blocks_0_img_attn_qkv is in another division of the matrices of "
        "transformer_blocks.0.attn.to_q, transformer_blocks.0.attn.to_k, transformer_blocks.0.attn.to_v than the "
        "layout 'peft', and its kind cannot be divided. Save it with layout='kohya' or layout='comfy'."
    )


# --------------------------------------------------------------------------------------------------------- headers
def header(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_the_header_of_peft_says_rank_and_alpha_of_each_component(tmp_path: Path) -> None:
    """The scale is in the tensors, so programs that read the header and those that do not agree."""
    file = made(lora("sd")).save(tmp_path / "a.safetensors", pipe=pipe("sd"))
    stated = json.loads(header(file)["lora_adapter_metadata"])
    assert stated["unet.peft_type"] == "LORA"
    assert stated["unet.r"] == stated["unet.lora_alpha"]
    assert stated["unet.rank_pattern"] == stated["unet.alpha_pattern"]
    assert {stated["unet.r"], *stated["unet.rank_pattern"].values()} == {1, 2, 3}
    assert "conv_in" in stated["unet.target_modules"]


def test_a_scale_that_loses_bits_makes_float32(tmp_path: Path) -> None:
    tensors = {key: t.bfloat16() for key, t in LORA.items() if key != "alpha"}
    for alpha, dtype in ((1.0, torch.bfloat16), (0.3, torch.float32)):
        adapter = made({f"{BODY}.{end}": t for end, t in (tensors | {"alpha": torch.tensor(alpha)}).items()})
        again = saved(adapter, "sd", tmp_path, "peft")
        assert [t.dtype for t in again.patches[0].patch.tensors()] == [torch.bfloat16, dtype]
        assert same(dense(again, "sd"), dense(adapter, "sd"))


def test_the_header_of_kohya_says_rank_alpha_and_family(tmp_path: Path) -> None:
    tensors = {f"{BODY}.{end}": t for end, t in (LORA | {"alpha": torch.tensor(0.5)}).items()}
    file = made(tensors).save(tmp_path / "a.safetensors", "kohya", pipe=pipe("sd"))
    assert header(file) == {
        "format": "pt", "ss_network_dim": "2", "ss_network_alpha": "0.5", "ss_network_module": "networks.lora",
        "modelspec.sai_model_spec": "1.0.0", "modelspec.title": "a",
    }  # fmt: skip
    flux = header(made(lora("flux")).save(tmp_path / "b.safetensors", "kohya", pipe=pipe("flux")))
    assert flux["modelspec.architecture"] == "flux-1-dev/lora"


# ---------------------------------------------------------------------------------------------------------- errors
def test_strengths_are_part_of_the_file(tmp_path: Path) -> None:
    adapter = made({f"{BODY}.{end}": t for end, t in LORA.items()})
    again = saved(adapter.scaled(0.5).scaled(unet=0.5), "sd", tmp_path, "kohya")
    (quarter,), (whole,) = (dense(one, "sd").values() for one in (again, adapter))
    assert torch.allclose(quarter * 4, whole)
    dora = made({f"{BODY}.{end}": t for end, t in KINDS["DoRA on rows"][1].items()})
    with pytest.raises(SaveError, match=r"depends on its matrix, and a file cannot have it at the strength 0\.5"):
        saved(dora.scaled(0.5), "sd", tmp_path, "kohya")
    with pytest.raises(SaveError, match=r"changes over the steps, which no layout can express"):
        saved(adapter.during(0, 0.5), "sd", tmp_path, "kohya")


def test_the_published_families_are_found_by_names_and_shapes(tmp_path: Path) -> None:
    body = "transformer.transformer_blocks.3.attn.to_q"
    tensors = {f"{body}.lora_A.weight": torch.ones(1, 3072), f"{body}.lora_B.weight": torch.ones(3072, 1)}
    file = made(tensors).save(tmp_path / "a.safetensors", "comfy")
    assert [named.body for named in sf.load_adapter(file).patches] == ["diffusion_model.double_blocks.3.img_attn.qkv"]
    with pytest.raises(ConfigError, match=r"fits no published family .* Pass pipe=, the graph that it was trained for"):
        made({f"{BODY}.{end}": t for end, t in LORA.items()}).save(tmp_path / "b.safetensors")


def test_a_patch_without_its_model_is_not_dropped(tmp_path: Path) -> None:
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    tensors = {f"{BODY}.{end}": t for end, t in LORA.items()}
    tensors |= {f"{text}.lora_A.weight": torch.ones(1, 8), f"{text}.lora_B.weight": torch.ones(8, 1)}
    with pytest.raises(SaveError, match=r"no model for 1 of the patches \(text_encoder\.text_model.*Pass pipe="):
        saved(made(tensors), "sd", tmp_path, "peft")
    with pytest.raises(SaveError, match=r"has no layout 'diffusers'"):
        made(tensors).save(tmp_path / "a.safetensors", "diffusers", pipe=pipe("sd"))  # type: ignore[arg-type]
