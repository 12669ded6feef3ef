"""Configs of components with odd values, and configs alone: what `from_config` takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint import change_json, checkpoint, used
from ..table import Action, Hostile, drawn, some
from .odd import ODD
from .weights import CONTROL

FILES = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "scheduler": "scheduler_config.json",
}
KEYS = {
    "unet": (
        "in_channels",
        "out_channels",
        "block_out_channels",
        "layers_per_block",
        "norm_num_groups",
        "attention_head_dim",
        "cross_attention_dim",
        "down_block_types",
        "up_block_types",
        "transformer_layers_per_block",
        "sample_size",
        "num_attention_heads",
        "act_fn",
        "time_cond_proj_dim",
        "class_embed_type",
        "addition_embed_type",
        "norm_eps",
        "dropout",
        "flip_sin_to_cos",
        "freq_shift",
        "only_cross_attention",
        "mid_block_type",
        "_class_name",
        CONTROL,
    ),
    "vae": (
        "block_out_channels",
        "latent_channels",
        "norm_num_groups",
        "layers_per_block",
        "scaling_factor",
        "shift_factor",
        "down_block_types",
        "in_channels",
        "out_channels",
        "sample_size",
        "latents_mean",
        "latents_std",
        "_class_name",
    ),
    "text_encoder": (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "max_position_embeddings",
        "eos_token_id",
        "bos_token_id",
        "architectures",
        "model_type",
        "layer_norm_eps",
        "projection_dim",
        "torch_dtype",
        "auto_map",
        "quantization_config",
    ),
    "scheduler": (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "timestep_spacing",
        "steps_offset",
        "rescale_betas_zero_snr",
        "_class_name",
        "clip_sample_range",
    ),
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "EulerDiscreteScheduler": {"use_karras_sigmas": True},
    "DPMSolverMultistepScheduler": {"solver_order": 2},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0, "use_dynamic_shifting": True},
    "UniPCMultistepScheduler": {"solver_order": 2},
    "LCMScheduler": {"original_inference_steps": 50},
    "HeunDiscreteScheduler": {"use_karras_sigmas": True},
    "DDPMScheduler": {"variance_type": "fixed_small"},
    "PNDMScheduler": {"skip_prk_steps": True},
    "EDMEulerScheduler": {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
}
COUNTS = (
    "num_train_timesteps",
    "steps_offset",
    "solver_order",
    "original_inference_steps",
    "shift",
    "beta_start",
    "beta_end",
    "sigma_min",
    "sigma_max",
)
MODELS: dict[str, dict[str, Any]] = {
    "FluxTransformer2DModel": {
        "num_layers": 1,
        "num_single_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "axes_dims_rope": [4, 6, 6],
    },
    "SD3Transformer2DModel": {
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "caption_projection_dim": 16,
        "pos_embed_max_size": 8,
    },
    "PixArtTransformer2DModel": {
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 8,
        "sample_size": 8,
    },
    "ControlNetModel": {
        "block_out_channels": [16, 16],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "norm_num_groups": 4,
        "conditioning_embedding_out_channels": [16, 16],
    },
    "T2IAdapter": {"channels": [16, 16], "in_channels": 3, "num_res_blocks": 1, "downscale_factor": 8},
    "T5EncoderModel": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 64},
    "AutoencoderTiny": {
        "encoder_block_out_channels": [8, 8],
        "decoder_block_out_channels": [8, 8],
        "num_encoder_blocks": [1, 1],
        "num_decoder_blocks": [1, 1],
    },
    "SiglipVisionModel": {
        "hidden_size": 16,
        "image_size": 28,
        "patch_size": 14,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
    },
}


def inputs() -> Iterator[Hostile]:
    """Odd values in the config files of a checkpoint; in configs of schedulers and models; whole files."""
    for part, keys in KEYS.items():
        random = drawn(f"configs {part}")
        for key in keys:
            for name in random.sample([*ODD], some(4)):
                yield Hostile(f"{part}: {key!r} is {name}", lambda place, a=(part, key, name): _changed(place, *a))
    for class_name, config in SCHEDULERS.items():
        random = drawn(f"configs {class_name}")
        for key in (*config, *random.sample(COUNTS, 3)):
            if key in config or key in COUNTS[:1]:
                for name in random.sample([*ODD], some(3)):
                    made = {**config, key: ODD[name], "_class_name": class_name}
                    yield Hostile(f"{class_name}: {key} is {name}", lambda place, m=made: _scheduler(place, m))
    for class_name, config in MODELS.items():
        random = drawn(f"configs {class_name}")
        for key in config:
            for name in random.sample([*ODD], some(2)):
                made = {**config, key: ODD[name]}
                yield Hostile(f"{class_name}: {key} is {name}", lambda _, c=class_name, m=made: _alone(c, m))
    for name, text in FILES_OF.items():
        for part, file in FILES.items():
            yield Hostile(f"{part}/{file}: {name}", lambda place, a=(part, file, text): _written(place, *a))


def _changed(place: Path, part: str, key: str, odd: str) -> Action:
    folder = checkpoint(place)
    change_json(folder / part / FILES[part], lambda data: {**data, key: ODD[odd]})
    return used(folder)


def _scheduler(place: Path, config: dict[str, Any]) -> Action:
    folder = checkpoint(place)
    change_json(folder / "model_index.json", lambda data: {**data, "scheduler": ["diffusers", config["_class_name"]]})
    change_json(folder / "scheduler/scheduler_config.json", lambda _: config)
    return used(folder)


def _alone(class_name: str, config: dict[str, Any]) -> Action:
    """A user's own config takes the memory that it names; on the device `meta` it takes none."""

    def action() -> str:
        import torch

        from sfumato.registry import models

        with torch.device("meta"):
            kind: Any = models.find(class_name)
            return type(kind.from_config(config)).__name__

    return action


FILES_OF: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a text": b'"x"',
    "an empty object": b"{}",
    "deep": b'{"a":' * 50_000,
    "10 MB of zeros": b"0" * 10**7,
    "not a number": b'{"in_channels": NaN, "num_train_timesteps": NaN, "hidden_size": NaN}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a web page": b"<!DOCTYPE html><html>Sign in</html>",
    "cut": b'{"_class_name": "UNet2DCondi',
    "a class of another kind": b'{"_class_name": "DDIMScheduler", "architectures": ["T5EncoderModel"]}',
    "a class that is a number": b'{"_class_name": 7, "architectures": 7}',
    "an Auto class": b'{"_class_name": "AutoModel", "architectures": ["AutoModel"], "auto_map": {"AutoModel": "x.Y"}}',
    "300,000 keys": b"{" + b",".join(b'"k%d":0' % i for i in range(300_000)) + b"}",
}


def _written(place: Path, part: str, file: str, text: bytes) -> Action:
    folder = checkpoint(place)
    (folder / part / file).write_bytes(text)
    return used(folder)
