"""Tiny models in ComfyUI's folder `models`, under the names of its published templates."""

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.loading.single_file.writing import write_checkpoint

from .whole_files import VOCABULARY, flux_transformer

_UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
_SD3_NET: dict[str, Any] = {
    "joint_attention_dim": None, "use_pos_embed": False, "pos_embed_type": None, "pos_embed_max_size": None,
    "force_zeros_for_pooled_projection": False,
}  # fmt: skip
_PARTS: Mapping[str, tuple[str, ...]] = {
    "transformer": ("model.diffusion_model.",),
    "vae": ("vae.", "first_stage_model."),
    "clip_l": ("text_encoders.clip_l.transformer.",),
    "t5xxl": ("text_encoders.t5xxl.transformer.",),
}
NAMED: Mapping[str, str] = {
    "checkpoints/v1-5-pruned-emaonly.safetensors": "sd1",
    "checkpoints/sd_xl_base_1.0.safetensors": "sdxl",
    "checkpoints/sd_xl_refiner_1.0.safetensors": "sdxl_refiner",
    "checkpoints/sd_xl_turbo_1.0_fp16.safetensors": "sdxl",
    "checkpoints/sd3.5_large_fp8_scaled.safetensors": "sd3",
    "checkpoints/flux1-schnell-fp8.safetensors": "flux",
    "diffusion_models/flux1-dev.safetensors": "flux transformer",
    "diffusion_models/flux1-schnell.safetensors": "flux transformer",
    "diffusion_models/flux1-krea-dev_fp8_scaled.safetensors": "flux transformer",
    "diffusion_models/flux1-dev-kontext_fp8_scaled.safetensors": "flux transformer",
    "diffusion_models/flux1-fill-dev.safetensors": "flux_fill transformer",
    "diffusion_models/flux.1-fill-dev-OneReward-transformer_fp8.safetensors": "flux_fill transformer",
    "diffusion_models/flux1-canny-dev.safetensors": "flux_canny transformer",
    "controlnet/sd3.5_large_controlnet_canny.safetensors": "sd3_net",
    "controlnet/sd3.5_large_controlnet_blur.safetensors": "sd3_net",
    "text_encoders/clip_l.safetensors": "flux clip_l",
    "text_encoders/t5xxl_fp16.safetensors": "flux t5xxl",
    "text_encoders/t5xxl_fp8_e4m3fn_scaled.safetensors": "flux t5xxl",
    "vae/ae.safetensors": "flux vae",
}
"""Where each file lies, and which of the models here it holds."""


def _clip(width: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "projection_dim": width,
        "num_attention_heads": width // 64, "vocab_size": VOCABULARY, **more,
    }  # fmt: skip


def _vae(**factors: float) -> nn.Module:
    return sf.models.AutoencoderKL(
        block_out_channels=(32,) * 4, latent_channels=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **factors,
    )  # fmt: skip


def _xl_unet(width: int, ids: int) -> nn.Module:
    return sf.models.UNet2DConditionModel(
        **_UNET, block_out_channels=(64, 128), cross_attention_dim=width, attention_head_dim=(1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=128 + ids * 256,
    )  # fmt: skip


def _made(family: str) -> dict[str, nn.Module]:
    match family:
        case "sd1":
            unet = sf.models.UNet2DConditionModel(
                **_UNET, block_out_channels=(32, 64), cross_attention_dim=64, attention_head_dim=8
            )
            return {"unet": unet, "vae": _vae(), "text_encoder": sf.models.CLIPTextModel(**_clip(64))}
        case "sdxl":
            return {
                "unet": _xl_unet(64 + 128, 6),
                "vae": _vae(scaling_factor=0.13025),
                "text_encoder": sf.models.CLIPTextModel(**_clip(64)),
                "text_encoder_2": sf.models.CLIPTextModelWithProjection(**_clip(128, hidden_act="gelu")),
            }
        case "sdxl_refiner":
            second = sf.models.CLIPTextModelWithProjection(**_clip(128, hidden_act="gelu"))
            return {"unet": _xl_unet(128, 5), "vae": _vae(scaling_factor=0.13025), "text_encoder_2": second}
        case "flux_fill" | "flux_canny":
            return {"transformer": flux_transformer({"flux_fill": 384, "flux_canny": 128}[family])}
        case _:
            raise AssertionError(family)


def drawn(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.6 * parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def comfy_models(tmp_path_factory: pytest.TempPathFactory, whole_file: Callable[[str], Path]) -> Path:
    """A folder `models` with all files of `NAMED`, made when it is first wanted; equal ones are links to one file."""
    root = tmp_path_factory.mktemp("comfyui")
    made = root / "made"
    made.mkdir()

    @cache
    def whole(family: str) -> Path:
        if family in ("flux", "sd3"):
            return whole_file(family)
        if family == "sd3_net":
            return sd3_net()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            models = {name: drawn(model) for name, model in _made(family).items()}
        layout = "flux" if family.startswith("flux") else family
        return write_checkpoint(made / f"{family}.safetensors", layout, models)

    def sd3_net() -> Path:
        """A net of 3.5 Large: without positions and prompt of its own."""
        transformer: Any = sf.load(whole_file("sd3")).bindings["transformer"].load()
        known = sf.models.SD3ControlNetModel.config_class.model_fields
        shared = {name: value for name, value in transformer.config.model_dump().items() if name in known}
        with torch.random.fork_rng():
            torch.manual_seed(5)
            net = drawn(sf.models.SD3ControlNetModel(**{**shared, "num_layers": 1, **_SD3_NET}))
        save_file(net.state_dict(), made / "sd3_net.safetensors")
        return made / "sd3_net.safetensors"

    @cache
    def read(family: str) -> dict[str, Tensor]:
        return load_file(whole(family))

    @cache
    def part(family: str, name: str) -> Path:
        tensors: dict[str, Tensor] = {}
        for key, tensor in read(family).items():
            for prefix in _PARTS[name]:
                if key.startswith(prefix):
                    tensors[key.removeprefix(prefix)] = tensor.clone()
        save_file(tensors, made / f"{family}-{name}.safetensors")
        return made / f"{family}-{name}.safetensors"

    for path, kind in NAMED.items():
        family, _, name = kind.partition(" ")
        (root / "models" / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(part(family, name) if name else whole(family), root / "models" / path)
    (root / "models" / "loras").mkdir()
    names = (
        "unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "te_text_model_encoder_layers_0_self_attn_q_proj",
    )
    tensors: dict[str, Tensor] = {}
    for name, width in zip(names, (32, 64), strict=True):
        tensors |= {f"lora_{name}.lora_down.weight": torch.full((2, width), 0.3),
                    f"lora_{name}.lora_up.weight": torch.full((width, 2), 0.3),
                    f"lora_{name}.alpha": torch.tensor(2.0)}  # fmt: skip
    save_file(tensors, root / "models" / "loras" / "tiny.safetensors")
    name = "transformer.transformer_blocks.0.attn.to_q"
    removal = {f"{name}.lora_A.weight": torch.full((2, 256), 0.3), f"{name}.lora_B.weight": torch.full((256, 2), 0.3)}
    save_file(removal, root / "models" / "loras" / "removal_timestep_alpha-2-1740.safetensors")
    return root / "models"
