"""The frozen part of every kind of recipe is computed once for each sample, and the loss stays the same."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato.components.random import Random
from sfumato.presets.training.methods import make_method

WORDS = ("fox", "owl", "cat")


def pictures() -> list[dict[str, Any]]:
    """Rows with masks and control pictures."""
    noise = np.random.default_rng(0).integers(256, size=(len(WORDS), 2, 32, 40, 3), dtype=np.uint8)
    return [
        {
            "image": Image.fromarray(first), "text": f"a {word}",
            "mask": Image.fromarray(np.where(second[..., 0] > 128, 255, 0).astype(np.uint8)),
            "control_image": Image.fromarray(second),
        }
        for word, (first, second) in zip(WORDS, noise, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "model", "task", "method"),
    [
        ("tiny", "sd-inpainting", "inpaint", "lora"),
        ("tiny", "sd", "text2image", "decoder"),
        ("xl", "base", "text2image", "lora"),
        ("flux", "fill", "fill", "lora"),
    ],
)
def test_a_frozen_recipe_gives_the_same_loss(
    request: pytest.FixtureRequest, family: str, model: str, task: str, method: str
) -> None:
    pipe = request.getfixturevalue(family)(model, task)
    made = make_method(method, pipe, {"masked": True} if model == "fill" else {})
    graph = made.recipe.bind(**made.trained.bindings())
    data = sf.load_data(pictures(), size=32, crop="center").batches(2, recipe=graph, seed=1)
    frozen = sf.data.freeze(graph, tuple(made.trained.bindings()), sf.memo())
    assert "vae" not in frozen.recipe.components or method == "decoder"
    for plain, cached in zip(data.epoch(0), frozen.batches(data).epoch(0), strict=True):
        random = Random.seeded([7 + place for place in plain.places])
        expected = graph(**plain.load(), random=random).losses
        torch.testing.assert_close(frozen.recipe(**cached.load(), random=random).losses, expected)
