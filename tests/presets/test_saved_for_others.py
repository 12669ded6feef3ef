"""A checkpoint goes from the reference to ours and back: the reference draws the same from both folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf

from .flux import ReferenceFlux
from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import Reference3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .sdxl import ReferenceXL
from .support import Reference, fresh, quiet
from .test_pixart import folder as folder

CASES: list[Any] = [
    ("checkpoint", "sd", Reference),
    ("checkpoint", "sd2", Reference),
    ("xl_checkpoint", "base", ReferenceXL),
    ("sd3_checkpoint", "3 medium", Reference3),
    ("flux_checkpoint", "dev", ReferenceFlux),
    ("folder", "sigma", None),
]


MODULAR = (ReferenceXL, Reference3, ReferenceFlux)


@pytest.mark.parametrize(
    ("made_by", "name", "reference"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_reference_draws_the_same_from_what_we_save(
    request: pytest.FixtureRequest, diffusers: Any, tmp_path: Path, made_by: str, name: str, reference: Any
) -> None:
    make: Callable[[str], Path] = request.getfixturevalue(made_by)
    original = make(name)
    sf.load(original, manager=fresh()).save_pretrained(tmp_path / "ours")
    theirs, ours = (json.loads((place / "model_index.json").read_text()) for place in (original, tmp_path / "ours"))
    assert {key: value for key, value in theirs.items() if value != [None, None]} == ours
    pictures = [_drawn(diffusers, place, reference) for place in (original, tmp_path / "ours")]
    assert (pictures[0] == pictures[1]).all()
    with quiet():
        modular = diffusers.ModularPipeline.from_pretrained(str(tmp_path / "ours")) if reference in MODULAR else None
        if modular is not None:
            modular.load_components()
            assert set(modular.null_component_names) <= {"image_encoder", "controlnet"}  # of other workflows


def _drawn(diffusers: Any, folder: Path, reference: Any) -> Any:
    if reference is not None:
        keys = [{"force_zeros_for_empty_prompt": True}] if reference is ReferenceXL else []
        return reference(diffusers, folder, *keys)(
            prompt="a red apple", num_inference_steps=1, height=64, width=64
        ).images
    with quiet():
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        given = {"use_resolution_binning": False, "output_type": "np", "height": 64, "width": 64}
        seed = torch.Generator().manual_seed(0)
        return pipe("a red apple", num_inference_steps=1, generator=seed, **given).images
