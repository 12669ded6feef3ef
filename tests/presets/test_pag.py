"""Checkpoints whose index names a pipeline with perturbed-attention guidance: they load with it on, as published."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf

from .sd3 import KINDS as KINDS_3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .support import fresh, half, picture, quiet, run

Folder = Callable[[str], Path]
GUIDER = "denoise.guider"


def renamed(folder: Path, to: Path, name: str) -> Path:
    """A copy of a folder whose index names another pipeline class."""
    shutil.copytree(folder, to)
    index = to / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": name}))
    return to


def latents(pipe: Any, seed: int, **inputs: Any) -> torch.Tensor:
    """The last latents of a pipeline of diffusers."""
    with quiet():
        pipe.set_progress_bar_config(disable=True)
        return pipe(generator=torch.Generator().manual_seed(seed), output_type="latent", **inputs).images


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("StableDiffusionPAGPipeline", "text2image"),
        ("StableDiffusionPAGImg2ImgPipeline", "image2image"),
        ("StableDiffusionPAGInpaintPipeline", "inpaint"),
    ],
)
def test_stable_diffusion(checkpoint: Folder, tmp_path: Path, diffusers: Any, name: str, task: str) -> None:
    folder = renamed(checkpoint("sd"), tmp_path / "sd", name)
    pipe = sf.load(folder, task, manager=fresh())
    assert isinstance(pipe[GUIDER], sf.guiders.PerturbedAttentionGuidance)
    values: dict[str, Any] = {"prompt": "a fish", "negative_prompt": "blue", "num_inference_steps": 4}
    if task != "text2image":
        values |= {"image": picture()}
    if task == "inpaint":
        values |= {"mask_image": half(), "height": 64, "width": 64, "strength": 1.0}
    with quiet():
        theirs = getattr(diffusers, name).from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
    expected = latents(theirs, 1, **values)
    assert (run(pipe, seed=1, **values).latents - expected).abs().max() < 1e-4
    assert (run(pipe, seed=1, guider="cfg", **values).latents - expected).abs().max() > 1e-3


@pytest.mark.parametrize("task", ["text2image", "image2image"])
@pytest.mark.parametrize("layers", [3, 12])
def test_stable_diffusion_3(
    sd3_checkpoint: Folder, tmp_path: Path, diffusers: Any, task: str, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twelve blocks, 1 and 10 and 11 are perturbed: its pattern `blocks.1` finds them all."""
    name = f"StableDiffusion3PAG{'Img2Img' if task == 'image2image' else ''}Pipeline"
    if layers != 3:
        monkeypatch.setitem(KINDS_3, "twelve", KINDS_3["3 medium"]._replace(transformer={"num_layers": layers}))
    folder = renamed(sd3_checkpoint("3 medium" if layers == 3 else "twelve"), tmp_path / "sd3", name)
    pipe = sf.load(folder, task, manager=fresh())
    assert pipe[GUIDER].config()["perturbed_guidance_layers"] == ((1,) if layers == 3 else (1, 10, 11))
    values: dict[str, Any] = {"prompt": "a fish", "negative_prompt": "blue", "num_inference_steps": 4}
    values |= {"height": 64, "width": 64}
    if task == "image2image":
        values |= {"image": picture()}
    with quiet():
        theirs = getattr(diffusers, name).from_pretrained(folder)
    expected = latents(theirs, 1, **values)
    assert (run(pipe, seed=1, **values).latents - expected).abs().max() < 1e-4
    assert (run(pipe, seed=1, guider="cfg", **values).latents - expected).abs().max() > 1e-3


EVERY = [(family, name) for family in sf.registry.presets for name in sf.registry.presets[family].pag_classes]


@pytest.mark.parametrize(("family", "name"), EVERY)
def test_every_published_class_is_guided_by_perturbed_attention(
    diffusers: Any, tmp_path: Path, family: str, name: str
) -> None:
    """In every task. The scale of the prompt is that of the task."""
    assert getattr(diffusers, name)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    for task in sf.registry.presets[family].tasks:
        pipe, plain = sf.load(tmp_path, task, manager=fresh()), sf.registry.presets[family].make(task, {})
        assert isinstance(pipe[GUIDER], sf.guiders.PerturbedAttentionGuidance)
        assert pipe[GUIDER].config()["guidance_scale"] == plain[GUIDER].config()["guidance_scale"]
        assert pipe.task("image2image").preset == (family, "image2image")
        assert isinstance(pipe.task("image2image")[GUIDER], sf.guiders.PerturbedAttentionGuidance)
