"""The tables of names: the reference's converters turn what ours write into the model it came from."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.components.loading.single_file import latent_diffusion, transformers
from sfumato.components.loading.single_file.tables import Renamed, Row, file_tensors, ties

diffusers: Any = import_module("diffusers")  # Any: its types refuse what its own files hold
theirs: Any = import_module("diffusers.loaders.single_file_utils")
hf: Any = import_module("transformers")

Make = Callable[[], Any]
LEVELS: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 2}
PLAIN: dict[str, Any] = {
    **LEVELS, "cross_attention_dim": 12, "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
SIZES: dict[str, Any] = {
    **PLAIN, "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "use_linear_projection": True,
    "projection_class_embeddings_input_dim": 28, "transformer_layers_per_block": (2, 1), "layers_per_block": 1,
}  # fmt: skip
CONTROL: dict[str, Any] = {k: v for k, v in PLAIN.items() if k != "up_block_types"}
VAE: dict[str, Any] = {
    **LEVELS, "block_out_channels": (8, 8, 16), "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}  # fmt: skip
FLUX: dict[str, Any] = {
    "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 8,
    "joint_attention_dim": 12, "pooled_projection_dim": 10, "axes_dims_rope": (4, 6, 6), "guidance_embeds": True,
}  # fmt: skip
SD3: dict[str, Any] = {
    "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 12, "in_channels": 4,
    "pooled_projection_dim": 10, "caption_projection_dim": 16, "sample_size": 8, "pos_embed_max_size": 8,
}  # fmt: skip


class Case:
    """A model of the reference, our rows for it, and the reference's converter."""

    def __init__(self, name: str, config: dict[str, Any], rows: Callable[[Any], Any], back: Any, prefix: str) -> None:
        self.name, self.config, self.rows, self.back, self.prefix = name, config, rows, back, prefix


def _plain(convert: Any) -> Any:
    def call(state: dict[str, Tensor], _config: Any) -> dict[str, Tensor]:
        return convert(state)

    return call


def _flux(state: dict[str, Tensor], _config: Any) -> dict[str, Tensor]:
    """The reference cuts rows by the published width, 3072; here by the same proportions."""

    def split(whole: Tensor, sizes: list[int], dim: int = 0) -> Any:
        return plain(whole, [size * len(whole) // sum(sizes) for size in sizes], dim)

    plain = torch.split
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "split", split)
        return theirs.convert_flux_transformer_checkpoint_to_diffusers(state)


CASES: dict[str, Case] = {
    "sd": Case(
        "UNet2DConditionModel", PLAIN, latent_diffusion.unet, theirs.convert_ldm_unet_checkpoint,
        "model.diffusion_model.",
    ),
    "sdxl": Case(
        "UNet2DConditionModel", SIZES, latent_diffusion.unet, theirs.convert_ldm_unet_checkpoint,
        "model.diffusion_model.",
    ),
    "controlnet": Case(
        "ControlNetModel", CONTROL, latent_diffusion.controlnet, theirs.convert_controlnet_checkpoint, "control_model."
    ),
    "vae": Case(
        "AutoencoderKL", VAE, latent_diffusion.vae, theirs.convert_ldm_vae_checkpoint, "first_stage_model."
    ),
    "flux": Case(
        "FluxTransformer2DModel", FLUX, lambda c: transformers.flux(8),
        _flux, "model.diffusion_model.",
    ),
    "sd3": Case(
        "SD3Transformer2DModel", SD3, lambda c: transformers.sd3(c["num_layers"]),
        _plain(theirs.convert_sd3_transformer_checkpoint_to_diffusers), "model.diffusion_model.",
    ),
    "sd3.5": Case(
        "SD3Transformer2DModel", {**SD3, "qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
        lambda c: transformers.sd3(c["num_layers"]),
        _plain(theirs.convert_sd3_transformer_checkpoint_to_diffusers), "model.diffusion_model.",
    ),
}  # fmt: skip


class InMemory:
    """Tensors as a file would give them."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}

    def read(self, name: str) -> Tensor:
        return self.state[name]

    def where(self, name: str) -> str:
        return "memory"


def _state(model: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(tensor.shape) for name, tensor in model.state_dict().items()}


def _made(case: Case) -> tuple[dict[str, Tensor], Any, list[Any]]:
    model = getattr(diffusers, case.name)(**case.config)
    state = _state(model)
    return state, model.config, ties(state, case.rows(model.config), case.prefix)


@pytest.mark.parametrize("name", CASES)
def test_the_references_converter_reads_what_the_tables_write(name: str) -> None:
    case = CASES[name]
    state, config, made = _made(case)
    file = file_tensors(state, made)
    assert not set(file) & set(state)
    back = case.back(dict(file), config)
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(back[key].reshape(tensor.shape), tensor), key


@pytest.mark.parametrize("name", CASES)
def test_what_the_tables_write_they_read(name: str) -> None:
    state, _, made = _made(CASES[name])
    read = Renamed(InMemory(file_tensors(state, made)), made, InMemory(state).shapes())
    assert read.shapes().keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(read.read(key).reshape(tensor.shape), tensor), key


def test_open_clip_towers_are_read_by_the_reference() -> None:
    config = hf.CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=50,
        projection_dim=16,
    )  # fmt: skip
    model = hf.CLIPTextModelWithProjection(config)
    names = _published(_state(model))
    file = file_tensors(names, ties(names, latent_diffusion.open_clip(2), "cond_stage_model.model."))
    assert file["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"].shape == (48, 16)
    # Its converter asks for `text_model.config`, and takes the width from `text_projection`.
    back = theirs.convert_open_clip_checkpoint(model, dict(file))
    for key, tensor in names.items():
        if key in back:
            assert torch.equal(back[key], tensor), key
    assert len(names.keys() - back.keys()) <= 1


def _published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names with `text_model.`, as files have them; transformers 5 drops it from a plain tower's objects."""
    plain = {"text_projection.weight"}
    return {n if n in plain or n.startswith("text_model.") else f"text_model.{n}": t for n, t in state.items()}


def test_a_part_that_says_nothing_keeps_its_name() -> None:
    (tie,) = ties(["a.b.weight"], [Row(("a",), "x")], "p.")
    assert (tie.ours, tie.theirs) == (("a.b.weight",), "p.x.b.weight")
    (same,) = ties(["c.weight"], [Row(("a",), "x")], "p.")
    assert same.theirs == "p.c.weight"
