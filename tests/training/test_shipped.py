"""The adapters that come with the embedded model: other programs read what our trainer wrote."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato as sf

EMBEDDED = Path(sf.__file__).parent / "presets/embedded/emoji"


@pytest.mark.parametrize(("name", "prompt"), [("flamingo", "a flamingo"), ("two-tone", "a red apple")])
def test_diffusers_draws_the_same_picture_with_a_trained_adapter(
    diffusers: Any, emoji: sf.Graph, name: str, prompt: str
) -> None:
    file = EMBEDDED / "adapters" / f"{name}.safetensors"
    assert file.stat().st_size < 1e6
    call: dict[str, Any] = {"prompt": prompt, "num_inference_steps": 4, "guidance_scale": 4.0}
    ours = emoji.with_adapters(sf.load_adapter(file))(**call, seed=7).images[0]

    theirs = diffusers.StableDiffusionPipeline.from_pretrained(EMBEDDED, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_lora_weights(str(file))
    image = theirs(**call, height=64, width=64, generator=torch.Generator().manual_seed(7)).images[0]

    assert apart(ours, image) <= 2
    assert apart(ours, emoji(**call, seed=7).images[0]) > 100


def apart(one: Any, other: Any) -> int:
    """The largest difference of two pictures, in levels of 255."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())
