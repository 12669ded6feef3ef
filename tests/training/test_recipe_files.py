"""A recipe is a graph: it is saved, drawn, and changed block by block."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.train.losses import Loss
from sfumato.blocks.train.timesteps import DrawLogitNormal
from sfumato.blocks.train.weights import WeightByMinSNR, WeightPrior
from sfumato.components.random import Random
from sfumato.components.types import Prediction
from sfumato.presets.training.recipe import recipe

Load = Callable[..., Graph]


@pytest.fixture
def batch() -> dict[str, Any]:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"pixels": pixels, "prompt": ["a fox", "an apple"], "random": Random.seeded([7])}


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_saved_recipe_gives_the_same_loss(
    request: pytest.FixtureRequest, tmp_path: Path, batch: dict[str, Any], family: str
) -> None:
    load: Load = request.getfixturevalue({"sd": "tiny", "sdxl": "xl"}.get(family, family))
    graph = recipe(load()).replace("timesteps", DrawLogitNormal(std=1.5))
    if family == "sd":
        graph = graph.replace("weight", WeightByMinSNR()).insert("prior", WeightPrior(), after="weight")
        batch = {**batch, "is_prior": torch.tensor([False, True])}
    if family in ("sd3", "flux"):
        batch = {**batch, "max_sequence_length": 24}
    graph.with_bindings({}).save(tmp_path)  # a file may not name folders elsewhere, where tests have their models
    loaded = Graph.load(tmp_path).with_bindings(graph.bindings)
    assert loaded == graph
    assert torch.equal(loaded(**batch).losses, graph(**batch).losses)


@pytest.mark.parametrize(
    ("family", "model", "task", "needs"),
    [
        ("tiny", "sd", "text2image", ()),
        ("tiny", "sd-inpainting", "inpaint", ("mask",)),
        ("xl", "base", "text2image", ()),
        ("flux", "fill", "fill", ("mask",)),
        ("flux", "depth", "text2image", ("control_image",)),
        ("flux", "kontext", "kontext", ("control_image",)),
    ],
)
def test_the_loss_of_a_row_does_not_depend_on_the_others(
    request: pytest.FixtureRequest, batch: dict[str, Any], family: str, model: str, task: str, needs: tuple[str, ...]
) -> None:
    """Each row has its own seed, and its own mask and control picture where the denoiser reads them."""
    graph = recipe(request.getfixturevalue(family)(model, task))
    assert set(needs) == {n for n, port in graph.inputs.items() if port.required} - {"pixels", "prompt", "random"}
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, :, :16], mask[1, :, :, 8:] = 1, 1
    pictures = {"mask": mask, "control_image": 1 - batch["pixels"]}
    tensors = {"pixels": batch["pixels"], **{name: pictures[name] for name in needs}}
    more = {"max_sequence_length": 24} if family == "flux" else {}

    def losses(rows: slice) -> Tensor:
        own = {name: t[rows] for name, t in tensors.items()}
        return graph(**own, **more, prompt=batch["prompt"][rows], random=Random.seeded([5, 6][rows])).losses

    torch.testing.assert_close(losses(slice(0, 2)), torch.cat([losses(slice(0, 1)), losses(slice(1, 2))]))


def test_a_recipe_needs_a_prompt_for_each_picture(tiny: Load, batch: dict[str, Any]) -> None:
    with pytest.raises(sf.UnfitValue, match=r"Got 3 prompts for 2 pictures\. Give one for all, or one each\."):
        recipe(tiny())(**{**batch, "prompt": ["a fox", "an apple", "a hare"]})
    with pytest.raises(sf.UnfitValue, match="is_prior has 1 row for 2 pictures"):
        WeightPrior()(torch.ones(2), torch.tensor([True]))


def test_a_recipe_can_be_drawn(emoji: Graph) -> None:
    text, drawing = recipe(emoji).show(), recipe(emoji).show("mermaid")
    for name in ("positive", "posterior", "timesteps", "add_noise", "predict_rows", "loss"):
        assert name in text and name in drawing


class CompareColours(sf.Block, name="tests.CompareColours"):
    """The mean squared error, and how far the mean of each channel is from the target's."""

    share: float = 0.5

    def __call__(self, prediction: Prediction, target: Prediction) -> Loss:
        each = ((prediction - target) ** 2).flatten(1).mean(1)
        colours: Tensor = ((prediction.mean((2, 3)) - target.mean((2, 3))) ** 2).mean(1)
        rows = each + self.share * colours
        return Loss(rows.mean(), rows.detach())


def test_a_loss_of_ones_own_is_a_block(tiny: Load, batch: dict[str, Any]) -> None:
    graph = recipe(tiny())
    own = graph.remove("weight").replace("loss", CompareColours())
    assert own(**batch).loss > graph(**batch).loss
    assert own.replace("loss", CompareColours(share=0.0))(**batch).loss == pytest.approx(float(graph(**batch).loss))


def test_each_picture_of_sdxl_has_its_sizes(xl: Load, batch: dict[str, Any]) -> None:
    graph = recipe(xl()).only("positive")
    sizes = {"original_size": [(64, 48), (32, 32)], "crops_coords_top_left": [(0, 8), (0, 0)]}
    ids = graph(**batch, **sizes).positive.time_ids
    assert ids.tolist() == [[64, 48, 0, 8, 32, 32], [32, 32, 0, 0, 32, 32]]
