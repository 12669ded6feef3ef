"""Embeddings against diffusers 0.42.1, on tiny checkpoints: the same picture from the same file.

Tolerances are of float32 arithmetic: latents within 1e-4, pixels within 0.05 of a step of 255.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato import Graph

from .sdxl import ReferenceXL
from .support import Reference, quiet, run

Same = Callable[..., object]
STEPS = 3
PROMPTS = ["a photo of <cat-toy> on a <cat-toy> hat", "<cat-toy>", "a red apple"]


def rows(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("count", [1, 3])
def test_the_pictures_of_diffusers(
    diffusers: Any,
    checkpoint: Callable[[str], Path],
    tiny: Callable[..., Graph],
    same: Same,
    tmp_path: Path,
    count: int,
) -> None:
    file = tmp_path / "learned.safetensors"
    save_file({"<cat-toy>": rows(count, 32)}, file)
    theirs = Reference(diffusers, checkpoint("sd"))
    with quiet():
        theirs.pipe.load_textual_inversion(str(file))
    call: dict[str, Any] = {"num_inference_steps": STEPS}
    embedding = sf.load_embedding(file)
    for prompt in PROMPTS:
        ours = run(tiny("sd"), prompt=prompt, negative_prompt="<cat-toy> blue", seed=1, adapters=[embedding], **call)
        same(ours, theirs(prompt=prompt, negative_prompt="<cat-toy> blue", seed=1, **call))


def test_the_pictures_of_diffusers_for_sdxl(
    diffusers: Any, xl_checkpoint: Callable[[str], Path], xl: Callable[..., Graph], same: Same, tmp_path: Path
) -> None:
    """One file and one call for both text encoders. diffusers takes each part by itself."""
    file = tmp_path / "cat.safetensors"
    parts = {"clip_l": rows(2, 32), "clip_g": rows(2, 48, 1)}
    save_file(parts, file)
    theirs = ReferenceXL(diffusers, xl_checkpoint("base"), {})
    with quiet():
        for key, end in (("clip_l", ""), ("clip_g", "_2")):
            theirs.pipe.load_textual_inversion(
                parts[key],
                token="cat",
                text_encoder=getattr(theirs.pipe, f"text_encoder{end}"),
                tokenizer=getattr(theirs.pipe, f"tokenizer{end}"),
            )
    call: dict[str, Any] = {"prompt": "a cat in a hat", "num_inference_steps": STEPS}
    ours = run(xl().with_adapters(sf.load_embedding(file)), seed=1, **call)
    plain = run(xl(), seed=1, **call)
    same(ours, theirs(seed=1, **call))
    assert (ours.latents - plain.latents).abs().max() > 1e-2
