"""Cached pipelines: the graph, guiders of several passes, adapters, runs side by side, threads, pauses, files."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import ConfigError, Graph, InputError, UnknownName, WireError
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.graph.events import StepFinished

from ..presets.test_adapters import kohya_file

RUN: dict[str, Any] = {"prompt": "a fox", "num_inference_steps": 6, "output_type": "np", "seed": 7}
DEEP: dict[str, Any] = {"cache": "deepcache", "cache_interval": 2}


@pytest.fixture(scope="module")
def cached(emoji: Graph) -> Graph:
    return emoji.cached(**DEEP)


def images(pipe: Graph, **inputs: Any) -> torch.Tensor:
    return torch.from_numpy(pipe(**{**RUN, **inputs}).images)


def test_a_cached_graph_is_another_graph_with_a_report(emoji: Graph, cached: Graph) -> None:
    out = cached(**RUN)
    assert str(out.skipped) == "skipped 36 of 84 blocks in 3 of 6 steps"
    assert out.skipped.steps == (1, 3, 5) and out.skipped.error is None
    assert cached != emoji and cached.cached(None) == emoji == emoji.cached(None)
    other = cached.cached("first_block", threshold=0)  # in place of the first one
    out = other(**RUN)
    assert torch.equal(torch.from_numpy(out.images), images(emoji)) and out.skipped.layers == 0


def test_a_cached_graph_is_saved_by_the_published_names(cached: Graph, tmp_path: Path) -> None:
    cached.save(tmp_path)
    assert '"change": "DeepCacheConfig"' in (tmp_path / "graph.json").read_text()
    assert Graph.load(tmp_path).only("images", "skipped") == cached.only("images", "skipped")


@pytest.mark.parametrize("guider", ["none", "pag"])
def test_each_pass_of_a_guider_has_a_memory_of_its_own(emoji: Graph, cached: Graph, guider: str) -> None:
    out = cached(**RUN, guider=guider)
    assert out.skipped.steps == (1, 3, 5)
    assert not torch.equal(torch.from_numpy(out.images), images(emoji, guider=guider))
    apart = cached.replace("denoise.predict", PredictNoise(batching="apart"))
    torch.testing.assert_close(images(apart, guider=guider), torch.from_numpy(out.images), atol=2e-3, rtol=0)


def test_adapters_are_in_what_is_remembered(emoji: Graph, cached: Graph, tmp_path: Path) -> None:
    kohya_file(emoji, tmp_path / "style.safetensors")
    adapter = sf.load_adapter(tmp_path / "style.safetensors")
    strong, off = images(cached, adapters=[adapter]), images(cached, adapters=[adapter.scaled(0.0)])
    torch.testing.assert_close(off, images(cached), atol=1e-4, rtol=0)
    assert not torch.allclose(strong, off, atol=1e-2)
    fresh = emoji.cached(**DEEP).with_adapters(adapter)
    torch.testing.assert_close(images(fresh), strong, atol=1e-5, rtol=0)


def test_runs_side_by_side_share_forwards_and_are_as_alone(emoji: Graph, cached: Graph) -> None:
    first = emoji.cached("first_block", threshold=0.25)
    calls = [
        (cached, {}),
        (cached, {"prompt": "a rocket", "seed": 3, "num_inference_steps": 5}),
        (first, {"seed": 4}),
        (first, {"prompt": "a tree", "guider": "none"}),
        (emoji, {}),
    ]
    runs = [pipe.stream(**{**RUN, **inputs}) for pipe, inputs in calls]
    sf.together(runs)
    for run, (pipe, inputs) in zip(runs, calls, strict=True):
        alone = pipe(**{**RUN, **inputs})
        torch.testing.assert_close(
            torch.from_numpy(run.outputs.images), torch.from_numpy(alone.images), atol=2e-3, rtol=0
        )
        if "skipped" in alone:
            assert run.outputs.skipped == alone.skipped


def test_threads_with_other_settings_do_not_disturb_each_other(emoji: Graph, cached: Graph) -> None:
    pipes = [emoji, cached, emoji.cached("pyramid_attention", cross_attention_block_skip_range=2)]
    alone = [images(pipe) for pipe in pipes]
    assert not torch.equal(alone[0], alone[1]) and not torch.equal(alone[1], alone[2])
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(images, pipes * 2))
    assert all(map(torch.equal, found, alone * 2))


@pytest.mark.parametrize("how", [DEEP, {"cache": "first_block", "threshold": 0.25}, {"cache": "faster_cache"}])
def test_a_paused_run_goes_on_exactly(emoji: Graph, how: dict[str, Any], tmp_path: Path) -> None:
    pipe = emoji.cached(**how)
    whole = pipe(**RUN)
    run = pipe.stream(**RUN)
    for event in run:
        if isinstance(event, StepFinished) and event.turn == 3:
            break
    state = run.pause()
    state.save(tmp_path / "state")
    rest = sf.resume(tmp_path / "state").result()
    assert torch.equal(torch.from_numpy(rest.images), torch.from_numpy(whole.images))
    assert rest.skipped == whole.skipped


def test_names_and_settings_that_are_wrong_are_refused(emoji: Graph) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'first_block'"):
        emoji.cached("firstblock")
    with pytest.raises(ConfigError) as error:
        emoji.cached("first_block", treshold=1)
    assert (
        str(error.value) == "FirstBlockCacheConfig has no 'treshold'. Did you mean 'threshold'? There are: threshold."
    )
    with pytest.raises(ConfigError) as error:
        emoji.cached(sf.caches.DeepCacheConfig(), cache_interval=2)
    assert str(error.value) == (
        "Got a DeepCacheConfig and also cache_interval. Set them in the value: DeepCacheConfig(cache_interval=…)."
    )
    with pytest.raises(InputError, match=r"needs a step cache, its name, or None\. Got 3\."):
        emoji.cached(3)
    with pytest.raises(WireError, match="TeaCacheConfig compares modulated inputs, and UNet2DConditionModel has none"):
        emoji.cached("teacache")
    with pytest.raises(ConfigError, match="This graph has no guider"):
        emoji.only("positive").cached("first_block")


def test_the_graph_of_another_task_has_the_same_cache() -> None:
    pipe = sf.load("emoji")
    cached = pipe.cached("deepcache", estimate_error=True)
    assert cached.task("image2image") == pipe.task("image2image").cached("deepcache", estimate_error=True)
    assert "skipped" in cached.task("image2image").outputs
    assert cached.task("inpaint").cached(None) == pipe.task("inpaint")
