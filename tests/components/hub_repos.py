"""Repos that the tests of the Hub are about, and what is counted of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sfumato as sf

from .hub_server import Hub

EMOJI = Path(sf.__file__).parent / "presets/embedded/emoji"
UNET = "unet/diffusion_pytorch_model.safetensors"
MODELS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 1, "seed": 0, "output_type": "pt"}
Load = Callable[..., sf.Graph]


def weights(hub: Hub) -> list[str]:
    return sorted(name for name in hub.given if name.endswith((".safetensors", ".bin", ".ckpt")))
