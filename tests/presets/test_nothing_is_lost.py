"""What diffusers loses when a pipeline is saved and read again (DIFFUSERS.md 5.4) comes back here."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph, GraphFileError
from sfumato.blocks.image.read import ReadImage
from sfumato.blocks.latents.start import CutSchedule, MakeSchedule
from sfumato.blocks.text.sd import EncodePrompt
from sfumato.components.types import Images

from .custom import Darken, Pictures
from .support import EMBEDDED, fresh, half, held, picture, run

GIVEN: dict[str, Any] = {"prompt": "a fish", "seed": 1, "num_inference_steps": 2}


def kept(graph: Graph, folder: Path) -> Graph:
    """The graph, saved and read again by both ways of reading; both must be equal to it."""
    graph.save(folder)
    one, other = Graph.load(folder), sf.load(folder)
    assert one == other == graph, graph.diff(one)
    return other


def test_a_scheduler_with_an_infinite_number_in_its_config_comes_back(emoji: Graph, tmp_path: Path) -> None:
    pipe = emoji.using(scheduler="dpmpp_2m_karras")
    assert held(pipe, "scheduler").lambda_min_clipped == float("-inf")
    kept(pipe, tmp_path)
    assert "Infinity" not in (tmp_path / "graph.json").read_text(), "strict JSON has no word for it"


@pytest.mark.parametrize("task", ["text2image", "image2image", "inpaint"])
def test_every_task_comes_back_and_draws_the_same_picture(emoji: Graph, tmp_path: Path, task: str) -> None:
    pipe = emoji.task(task)
    back = kept(pipe, tmp_path)
    image = {} if task == "text2image" else {"image": picture()}
    image |= {"mask_image": half()} if task == "inpaint" else {}
    assert torch.equal(run(back, **GIVEN, **image).latents, run(pipe, **GIVEN, **image).latents)
    assert back.preset == pipe.preset
    assert back.task("inpaint") == pipe.task("inpaint")


def test_the_guiders_settings(emoji: Graph, tmp_path: Path) -> None:
    """diffusers: guidance 2.5 comes back as 7.5."""
    guider = sf.guiders.ClassifierFreeGuidance(guidance_scale=2.5, guidance_rescale=0.3, start=0.1, stop=0.9)
    back = kept(emoji.using(guider=guider), tmp_path)
    assert back["denoise.guider"] == guider
    assert back.slots == {"guider": ("denoise.guider",)}


def test_the_schedulers_settings(emoji: Graph, tmp_path: Path) -> None:
    scheduler = sf.schedulers.EulerDiscreteScheduler(
        use_karras_sigmas=True, s_churn=0.5, prediction_type="v_prediction"
    )
    back = kept(emoji.using(scheduler=scheduler), tmp_path)
    assert held(back, "scheduler") == scheduler


def test_the_settings_of_blocks_that_read_and_prepare(emoji: Graph, tmp_path: Path) -> None:
    """diffusers loses the settings of image processors."""
    graph = (
        emoji.task("image2image")
        .replace("read", ReadImage(multiple=16, height=32, width=48))
        .replace("cut", CutSchedule(strength=0.35))
        .replace("schedule", MakeSchedule(num_inference_steps=9))
    )
    back = kept(graph, tmp_path)
    assert back["read"] == ReadImage(multiple=16, height=32, width=48)
    assert back.inputs["strength"].default == 0.35
    assert back.inputs["num_inference_steps"].default == 9


def test_an_inserted_block_of_ones_own(emoji: Graph, tmp_path: Path) -> None:
    """diffusers: the block is silently gone."""
    back = kept(emoji.insert("darken", Darken(by=0.25), after="decode"), tmp_path)
    assert back["darken"] == Darken(by=0.25)
    assert list(back.nodes)[-3:] == ["decode", "darken", "finish"]
    assert run(back, **GIVEN).images.max() <= 0.25


@pytest.mark.parametrize("outputs", [("positive",), ("latents",), ("latents", "images")])
def test_a_part_stays_a_part(emoji: Graph, tmp_path: Path, outputs: tuple[str, ...]) -> None:
    """diffusers: two blocks come back as the full default five."""
    part = emoji.only(*outputs)
    back = kept(part, tmp_path)
    assert list(back.nodes) == list(part.nodes)
    assert list(back.bindings) == list(part.bindings)
    assert list(back.outputs) == list(outputs)


def test_renamed_and_pinned_wires(emoji: Graph, tmp_path: Path) -> None:
    graph = emoji.rename("positive", "encode").wire("match.rows", "rows.rows")
    back = kept(graph, tmp_path)
    assert [str(e) for e in back.pinned] == ["rows.rows -> match.rows (pinned)"]


def test_a_graph_with_nothing_bound(tmp_path: Path) -> None:
    back = kept(sf.load("sd"), tmp_path)
    assert not back.bindings
    assert len(back.components) == 5


def test_a_model_that_was_given_as_an_object(emoji: Graph, tmp_path: Path) -> None:
    vae = sf.models.AutoencoderKL.from_pretrained(EMBEDDED / "vae")
    graph = emoji.bind(vae=vae)
    graph.save(tmp_path)
    back = sf.load(tmp_path, manager=fresh())
    assert held(back, "vae") is not vae
    assert torch.equal(run(back, **GIVEN).latents, run(graph, **GIVEN).latents)


def test_reading_a_graph_reads_no_weights(emoji: Graph, tmp_path: Path) -> None:
    emoji.save(tmp_path)
    manager = fresh()
    back = sf.load(tmp_path, manager=manager)
    assert back.check() == []
    assert len(manager) == 0


def test_two_blocks_of_one_name_are_refused_when_they_are_saved(emoji: Graph, tmp_path: Path) -> None:
    """diffusers saves a custom block without its file, or a second one over the first, and fails when it is read."""

    class Other(sf.Block, name="tests.Twice"):
        def __call__(self, images: Images) -> Pictures:
            return Pictures(images)

    class Another(sf.Block, name="tests.Twice"):  # pyright: ignore[reportUnusedClass]
        def __call__(self, images: Images) -> Pictures:
            return Pictures(1 - images)

    with pytest.raises(GraphFileError, match=r"tests\.Twice', which another class has too"):
        emoji.insert("other", Other(), after="decode").save(tmp_path)


@pytest.mark.parametrize("make", [EncodePrompt, Darken, MakeSchedule, sf.guiders.ClassifierFreeGuidance])
def test_blocks_can_be_pickled(make: Callable[[], sf.Block]) -> None:
    """So can a graph with nothing bound; pickling a pipeline of diffusers fails."""
    block = make()
    assert pickle.loads(pickle.dumps(block)) == block


def test_a_graph_can_be_pickled() -> None:
    graph = sf.load("sd")
    assert pickle.loads(pickle.dumps(graph)) == graph
