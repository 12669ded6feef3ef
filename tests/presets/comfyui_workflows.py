"""The published templates of ComfyUI, and its default workflow."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import sfumato as sf
from sfumato.graph import json_text

TEMPLATES = Path(str(files("comfyui_workflow_templates_json"))) / "templates"
BLUEPRINTS = Path(str(files("comfyui_subgraph_blueprints"))) / "blueprints"


def lora_loader(**inputs: Any) -> dict[str, Any]:
    """Changes of `api` that put an adapter on the models."""
    lora = {"lora_name": "tiny.safetensors", "strength_model": 0.8, "strength_clip": 0.5, **inputs}
    loader = {"class_type": "LoraLoader", "inputs": {"model": ["checkpoint", 0], "clip": ["checkpoint", 1], **lora}}
    clip = {"clip": ["lora", 1]}
    return {"lora": loader, "positive": clip, "negative": clip, "sample": {"model": ["lora", 0]}}


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


def pixels(graph: sf.Graph, **inputs: Any) -> np.ndarray[Any, Any]:
    """The pictures of a run, as an array."""
    return graph(**inputs, output_type="np").images
