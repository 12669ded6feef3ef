"""Tiny models in ComfyUI's folder `models`, under the names of its published templates; and its default workflow."""

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.loading.single_file.writing import write_checkpoint
from sfumato.graph import json_text

from .whole_files import VOCABULARY, flux_models, sd3_models

TEMPLATES = Path(str(files("comfyui_workflow_templates_json"))) / "templates"
BLUEPRINTS = Path(str(files("comfyui_subgraph_blueprints"))) / "blueprints"
_UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
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
        case "flux":
            return flux_models()
        case _:
            return sd3_models()


def _drawn(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.6 * parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def comfy_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `models` with all files of `NAMED`, made when it is first wanted; equal ones are links to one file."""
    root = tmp_path_factory.mktemp("comfyui")
    made = root / "made"
    made.mkdir()

    @cache
    def whole(family: str) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            models = {name: _drawn(model) for name, model in _made(family).items()}
        return write_checkpoint(made / f"{family}.safetensors", family, models)

    @cache
    def part(family: str, name: str) -> Path:
        tensors: dict[str, Tensor] = {}
        for key, tensor in load_file(whole(family)).items():
            for prefix in _PARTS[name]:
                if key.startswith(prefix):
                    tensors[key.removeprefix(prefix)] = tensor.clone()
        save_file(tensors, made / f"{family}-{name}.safetensors")
        return made / f"{family}-{name}.safetensors"

    for path, kind in NAMED.items():
        family, _, name = kind.partition(" ")
        (root / "models" / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(part(family, name) if name else whole(family), root / "models" / path)
    return root / "models"


def api(**changes: Mapping[str, Any]) -> dict[str, Any]:
    """ComfyUI's default workflow in the API format, with changes: node to inputs, or to a whole node."""
    nodes: dict[str, Any] = {
        "checkpoint": {"class_type": "CheckpointLoaderSimple",
                       "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
        "positive": {"class_type": "CLIPTextEncode", "inputs": {"text": "a (red:1.3) fox", "clip": ["checkpoint", 1]}},
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["checkpoint", 1]}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "sample": {"class_type": "KSampler", "inputs": {
            "seed": 7, "steps": 3, "cfg": 6.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "model": ["checkpoint", 0], "positive": ["positive", 0], "negative": ["negative", 0],
            "latent_image": ["latent", 0]}},
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["checkpoint", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "x"}},
    }  # fmt: skip
    for name, change in changes.items():
        if "class_type" in change:
            nodes[name] = change
        else:
            nodes[name]["inputs"] = {**nodes[name]["inputs"], **change}
    return nodes


@cache
def local_templates() -> tuple[str, ...]:
    """The templates of the index's category Image that need no paid service."""
    index = json_text.parse((TEMPLATES / "index.json").read_text(encoding="utf-8"))
    image = next(group for group in index if group["title"] == "Image")
    return tuple(one["name"] for one in image["templates"] if one.get("openSource") is not False)
