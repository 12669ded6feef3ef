"""The names by which trainers call matrices: the same change in every published layout."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import ConfigError, LoadError
from sfumato.components.adapters.attach import patched_view, patches_of
from sfumato.components.adapters.layers import Strengths
from sfumato.components.adapters.names import ModelNames, names_of
from sfumato.components.adapters.placing import Placement
from sfumato.components.adapters.placing import place as place_patches
from sfumato.components.adapters.reading import adapter_of

LISTS = Path(__file__).parents[1] / "data" / "lora_keys.txt"
FLUX = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True, "in_channels": 64}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
T5_XXL = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}
CONTROL = "flux_control_lora_format.py"
"""BFL's control LoRA, which widens the input from 64 to 128 channels."""
SHAPES_OF_NO_MODEL = "flux_lokr_bfl_format.py"
"""A list whose Kronecker factors multiply to no matrix of Flux: only its names can be looked up."""


def place(adapter: sf.Adapter, models: Mapping[str, ModelNames]) -> Placement:
    return place_patches(adapter.content, models, adapter.name)


def published(name: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one of the lists: its names and shapes, filled with ones that take no memory."""
    text = LISTS.read_text(encoding="utf-8")
    body = text.partition(f"### {name} ")[2].partition("###")[0]
    for line in body.splitlines()[1:]:
        found = re.fullmatch(r"\s*(\d+) \[(.*)\] (\S+)", line)
        if found is None:
            continue
        count, pattern = int(found[1]), found[3]
        sizes = [int(n) for n in found[2].split(",") if n.strip()]
        for number in range(count):
            key = re.sub(r"(?<=[._])N(?=[._])", str(number), pattern)
            yield key, torch.ones(1).expand(sizes) if sizes else torch.ones(())


NAMES = re.findall(r"^### (\S+)", LISTS.read_text(encoding="utf-8"), re.M)
OF_FLUX = [name for name in NAMES if name.startswith("flux")]


@cache
def flux() -> Mapping[str, ModelNames]:
    return {
        "transformer": names_of("FluxTransformer2DModel", FLUX),
        "text_encoder": names_of("CLIPTextModel", CLIP_L),
        "text_encoder_2": names_of("T5EncoderModel", T5_XXL),
    }


def test_there_are_seventeen_lists() -> None:
    assert len(NAMES) == 17
    assert len(OF_FLUX) == 10


@pytest.mark.parametrize("name", [n for n in OF_FLUX if n != SHAPES_OF_NO_MODEL])
def test_every_key_of_a_published_flux_list_is_applied(name: str) -> None:
    adapter = adapter_of(published(name), name=name, source=name)
    placed = place(adapter, flux())
    assert not placed.absent
    assert not placed.empty
    assert sum(map(len, placed.placed.values())) == len(adapter.patches)
    wider = [item.body for items in placed.placed.values() for item in items if item.columns]
    assert wider == (["img_in"] if name == CONTROL else [])


def widening(columns: int, **more: Tensor) -> sf.Adapter:
    tensors = {"img_in.lora_A.weight": torch.ones(2, columns), "img_in.lora_B.weight": torch.ones(3072, 2)}
    tensors |= {f"img_in.{end}": tensor for end, tensor in more.items()}
    return adapter_of(tensors.items(), name="a", source="a")


@pytest.mark.parametrize("columns", [32, 96])
def test_an_input_is_widened_to_whole_further_latents(columns: int) -> None:
    with pytest.raises(ConfigError, match=rf"img_in is for a matrix of 3072x{columns}, .* transformer is 3072x64"):
        place(widening(columns), flux())


def test_the_shape_that_comfyui_states_is_that_of_the_patch() -> None:
    placed = place(widening(128, reshape_weight=torch.tensor([3072, 128])), flux())
    assert [item.columns for item in placed.placed["transformer"]] == [128]
    for wrong in ([3072, 64], [3072], [-1, 128], [3072, 128, 1, 1]):
        with pytest.raises(LoadError, match=r"img_in: the shapes of its tensors do not go together"):
            widening(128, reshape_weight=torch.tensor(wrong))


def test_only_the_first_layer_is_widened() -> None:
    tensors = {"txt_in.lora_A.weight": torch.ones(2, 8192), "txt_in.lora_B.weight": torch.ones(3072, 2)}
    with pytest.raises(ConfigError, match="txt_in is for a matrix of 3072x8192"):
        place(adapter_of(tensors.items(), name="a", source="a"), flux())


def test_the_names_of_a_lokr_list_are_known() -> None:
    adapter = adapter_of(published(SHAPES_OF_NO_MODEL), name="lokr", source="lokr")
    with pytest.raises(ConfigError, match=r"6 of its patches have other shapes") as raised:
        place(adapter, flux())
    assert "in no model" not in str(raised.value)


LIKE_FLUX = "qwen_image_lora_diffusers_format.py"
"""Nine keys whose names and shapes Flux has too: nothing in the file says that they are for Qwen-Image."""


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*OF_FLUX, LIKE_FLUX)])
def test_lists_of_other_families_are_refused_with_their_names(name: str) -> None:
    """Families that we do not have: the file is read, its kinds are known, and no key is dropped in silence."""
    adapter = adapter_of(published(name), name=name, source=name)
    with pytest.raises(ConfigError, match=r"of its names are in no model of the graph") as raised:
        place(adapter, flux())
    assert "Use an adapter that was trained on this family." in str(raised.value)


# ------------------------------------------------------------------------------------------ the same change everywhere
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "sd": ("UNet2DConditionModel", {
        "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 32,
        "attention_head_dim": 2, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }),
    "flux": ("FluxTransformer2DModel", {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 4,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8],
    }),
    "sd3": ("SD3Transformer2DModel", {
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "in_channels": 4, "sample_size": 8,
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "caption_projection_dim": 32, "out_channels": 4,
        "pos_embed_max_size": 8,
    }),
    "pixart": ("PixArtTransformer2DModel", {
        "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4, "in_channels": 4, "out_channels": 8,
        "cross_attention_dim": 32, "caption_channels": 32, "sample_size": 8,
    }),
}  # fmt: skip
Spelling = Callable[[str], str]


def flat(prefix: str) -> Spelling:
    return lambda name: prefix + name.replace(".", "_")


def dotted(prefix: str) -> Spelling:
    return lambda name: prefix + name


BOTH = flat("lora_unet_"), dotted("diffusion_model.")
QKV = ("to_q", "to_k", "to_v")
LAYOUTS: Mapping[str, tuple[str, tuple[str, ...], str, tuple[Spelling, ...]]] = {
    # what it is: family, our layers, the authors' name of the matrix, and how trainers write it
    "self-attention of SD": (
        "sd", ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",),
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q", BOTH,
    ),
    "time embedding of SD": ("sd", ("time_embedding.linear_1",), "time_embed.0", BOTH),
    "convolution of SD": ("sd", ("down_blocks.1.resnets.0.conv1",), "input_blocks.3.0.in_layers.2", BOTH),
    "double block of Flux": (
        "flux", tuple(f"transformer_blocks.0.attn.{n}" for n in QKV), "double_blocks.0.img_attn.qkv",
        (*BOTH, dotted(""), dotted("base_model.model.")),
    ),
    "text side of a double block of Flux": (
        "flux", tuple(f"transformer_blocks.0.attn.add_{n}_proj" for n in "qkv"), "double_blocks.0.txt_attn.qkv", BOTH,
    ),
    "single block of Flux": (
        "flux", (*(f"single_transformer_blocks.0.attn.{n}" for n in QKV), "single_transformer_blocks.0.proj_mlp"),
        "single_blocks.0.linear1", BOTH,
    ),
    "last modulation of Flux": ("flux", ("norm_out.linear",), "final_layer.adaLN_modulation.1", BOTH),
    "joint block of SD 3": (
        "sd3", tuple(f"transformer_blocks.0.attn.{n}" for n in QKV), "joint_blocks.0.x_block.attn.qkv", BOTH,
    ),
    "last text modulation of SD 3": (
        "sd3", ("transformer_blocks.1.norm1_context.linear",), "joint_blocks.1.context_block.adaLN_modulation.1", BOTH,
    ),
    "self-attention of PixArt": (
        "pixart", tuple(f"transformer_blocks.0.attn1.{n}" for n in QKV), "blocks.0.attn.qkv", BOTH,
    ),
    "cross-attention of PixArt": (
        "pixart", ("transformer_blocks.0.attn2.to_k", "transformer_blocks.0.attn2.to_v"),
        "blocks.0.cross_attn.kv_linear", BOTH,
    ),
}  # fmt: skip
SWAPPED = {"last modulation of Flux", "last text modulation of SD 3"}


@cache
def model(family: str) -> Any:  # a model of ours, whose layers a type checker does not know
    torch.manual_seed(0)
    name, config = MODELS[family]
    made = sf.registry.models[name].from_config(config)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made.eval().requires_grad_(False)


def changes(family: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """How much the weight of each layer changes, by the answers of the layers of a view."""
    name, config = MODELS[family]
    component = "unet" if family == "sd" else "transformer"
    placed = place(adapter_of(tensors.items(), name="a", source="a"), {component: names_of(name, config)})
    patches = patches_of(model(family), [placed.placed[component]])
    view = patched_view(model(family), patches, dict.fromkeys(patches.layers, Strengths(torch.ones(1))))
    return {p: answers(view.get_submodule(p)) - answers(model(family).get_submodule(p)) for p in patches.layers}


def answers(layer: nn.Module) -> Tensor:
    """The weight of a layer as a matrix, by what it makes of unit inputs: nothing is assumed of how it is patched."""
    if isinstance(layer, nn.Conv2d):
        side = layer.kernel_size[0]
        count = layer.in_channels * side * side
        units = torch.eye(count).reshape(count, layer.in_channels, side, side)
        out = layer(units) - layer(torch.zeros_like(units))
        return out[:, :, side // 2, side // 2].T
    assert isinstance(layer, nn.Linear)
    units = torch.eye(layer.in_features)
    return (layer(units) - layer(torch.zeros_like(units))).T


@pytest.mark.parametrize("what", LAYOUTS)
def test_a_change_of_a_published_matrix_reaches_its_rows_in_our_layers(what: str) -> None:
    """LoRA is split by rows, a whole difference is split after it was assembled: both change the published matrix."""
    family, layers, theirs, spellings = LAYOUTS[what]
    own = [model(family).get_submodule(path).weight for path in layers]
    rows = sum(len(w) for w in own)
    torch.manual_seed(1)
    down, up = torch.randn(2, own[0][0].numel()) * 0.3, torch.randn(rows, 2) * 0.3
    difference = up @ down * 0.5
    expected = torch.cat([*reversed(difference.chunk(2))]) if what in SWAPPED else difference
    by_layer = dict(zip(layers, expected.split([len(w) for w in own]), strict=True))
    kernel = own[0].shape[2:]
    files: list[dict[str, Tensor]] = [
        {
            f"{spelling(theirs)}.lora_down.weight": down.reshape(2, -1, *kernel),
            f"{spelling(theirs)}.alpha": torch.tensor(1.0),
            f"{spelling(theirs)}.lora_up.weight": up.reshape(rows, 2, *[1] * len(kernel)),
        }
        for spelling in spellings
    ]
    files.append({f"{spellings[0](theirs)}.diff": difference.reshape(rows, -1, *kernel)})
    for tensors in files:
        for order in (1, -1):
            got = changes(family, dict(list(tensors.items())[::order]))
            assert got.keys() == by_layer.keys()
            for path, weight in by_layer.items():
                assert torch.allclose(got[path], weight, atol=1e-5), (path, *tensors)


def test_our_own_names_work_in_every_spelling() -> None:
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    width = model("sd").get_submodule(layer).weight.shape
    down, up = torch.ones(2, width[1]), torch.ones(width[0], 2)
    flattened, old = layer.replace(".", "_"), layer.replace(".to_out.0", ".processor.to_out_lora")
    for first, second in (
        (f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"),
        (f"unet.base_model.model.{layer}.lora_A.style.weight", f"unet.base_model.model.{layer}.lora_B.style.weight"),
        (f"base_model.model.{layer}.lora_A.weight", f"base_model.model.{layer}.lora_B.weight"),
        (f"lora_unet_{flattened}.lora_down.weight", f"lora_unet_{flattened}.lora_up.weight"),
        (f"lora_unet__{flattened}.lora_down.weight", f"lora_unet__{flattened}.lora_up.weight"),
        (f"lycoris_{flattened}.lora_down.weight", f"lycoris_{flattened}.lora_up.weight"),
        (f"unet.{old}.down.weight", f"unet.{old}.up.weight"),
        (f"{old}.down.weight", f"{old}.up.weight"),
        (f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight"),
    ):
        got = changes("sd", {first: down, second: up})
        assert got.keys() == {layer}, first
        assert torch.allclose(got[layer], up @ down, atol=1e-5), first


def test_xlabs_qkv_of_a_single_block_has_only_the_rows_of_attention() -> None:
    prefix = "single_blocks.0.processor.qkv_lora"
    got = changes("flux", {f"{prefix}.down.weight": torch.ones(2, 32), f"{prefix}.up.weight": torch.ones(96, 2)})
    assert got.keys() == {f"single_transformer_blocks.0.attn.{n}" for n in QKV}


# ----------------------------------------------------------------------------------------------------------- refusals
def test_a_file_of_a_whole_model_is_named_as_one() -> None:
    with pytest.raises(LoadError, match=r"m\.safetensors: 1 key of no known kind of adapter: a\.b\..*whole model"):
        adapter_of([("a.b", torch.ones(1))], name="m", source="m.safetensors")


def test_a_model_in_our_names_is_named_as_one() -> None:
    tensors = {"conv_in.weight": torch.ones(2, 2), "conv_in.bias": torch.ones(2)}
    with pytest.raises(LoadError, match=r"m\.safetensors: is a whole model and no adapter\. Load it with sf\.load or"):
        adapter_of(tensors.items(), name="m", source="m.safetensors")


def test_names_of_no_layer_are_listed() -> None:
    body = "lora_unet_nowhere"
    tensors = {f"{body}.lora_down.weight": torch.ones(2, 4), f"{body}.lora_up.weight": torch.ones(4, 2)}
    adapter = adapter_of(tensors.items(), name="a", source="a.safetensors")
    with pytest.raises(ConfigError, match=r"1 of its names are in no model of the graph \(unet\): lora_unet_nowhere\."):
        place(adapter, {"unet": names_of(*MODELS["sd"])})


def test_zero_patches_and_absent_text_encoders_are_accounted_for() -> None:
    te2 = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    tensors = {
        "unet.time_embedding.linear_1.lora_A.weight": torch.ones(2, 16),
        "unet.time_embedding.linear_1.lora_B.weight": torch.ones(64, 2),
        "unet.time_embedding.linear_2.lora_A.weight": torch.ones(2, 64),
        "unet.time_embedding.linear_2.lora_B.weight": torch.zeros(64, 2),
        f"{te2}.lora_down.weight": torch.ones(2, 8),
        f"{te2}.lora_up.weight": torch.ones(8, 2),
    }
    found = place(adapter_of(tensors.items(), name="a", source="a"), {"unet": names_of(*MODELS["sd"])})
    assert [len(v) for v in found.placed.values()] == [1]
    assert found.empty == ["unet.time_embedding.linear_2"]
    assert found.absent == [te2]
