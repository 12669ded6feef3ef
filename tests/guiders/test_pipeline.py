"""Guiders on the embedded model: every one with no arguments, what it costs, and what it changes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.components.handle import Handle
from sfumato.presets.sd import text2image
from sfumato.registry import guiders

from ..presets.support import Counts, Result, counted, run
from .support import ALL, PERTURBED

CALL: dict[str, Any] = {"prompt": ["a fish", "a cat"], "seed": 1, "num_inference_steps": 4}
PLAIN: dict[str, Any] = {"guidance_scale": 7.5}


def priced(emoji: Graph, guider: Any, **more: Any) -> tuple[Result, Counts]:
    with counted(emoji) as did:
        return run(emoji, guider=guider, **{**CALL, **more}), did


@pytest.fixture(scope="module")
def plain(emoji: Graph) -> Result:
    return run(emoji, guider=sf.guiders.ClassifierFreeGuidance(), **CALL)


@pytest.mark.parametrize("name", [n for n in guiders if n not in ("ClassifierFreeGuidance", "GuidanceSchedule")])
def test_every_guider_works_with_no_arguments_and_changes_the_picture(emoji: Graph, plain: Result, name: str) -> None:
    for spelled in (name, *(alias for alias, full in guiders.aliases.items() if full == name)):
        made = run(emoji, guider=spelled, **CALL)
        assert bool(made.latents.isfinite().all())
        assert (made.latents - plain.latents).abs().max() > 1e-3
        assert abs(made.images - plain.images).max() > 1e-3


# rows of each forward in 4 steps of 2 pictures: both passes together are 4 rows, a perturbed pass is 2 of its own
TWO = [4] * 4
ROWS: dict[str, list[int]] = {
    "AdaptiveProjectedGuidance": TWO,
    "AdaptiveProjectedMixGuidance": TWO,
    "AutoGuidance": [2, 2] * 4,
    "ClassifierFreeGuidance": TWO,
    "ClassifierFreeZeroStarGuidance": [4] * 3,
    "FrequencyDecoupledGuidance": TWO,
    "MagnitudeAwareGuidance": TWO,
    "NoGuidance": [2] * 4,
    "PerturbedAttentionGuidance": [4, 4, 2, 4, 4],
    "SkipLayerGuidance": [4, 4, 2, 4, 4],
    "SmoothedEnergyGuidance": [4, 2] * 4,
    "TangentialClassifierFreeGuidance": TWO,
    "GuidanceSchedule": TWO,
}


@pytest.mark.parametrize("name", guiders)
def test_a_guider_costs_what_it_asks(emoji: Graph, name: str) -> None:
    _, did = priced(emoji, name)
    assert did.rows == ROWS[name]
    assert did.text_encoder == (1 if name in ("NoGuidance", "AutoGuidance") else 2)


@pytest.mark.parametrize("name", ALL)
def test_together_or_apart_is_the_same_picture(emoji: Graph, name: str) -> None:
    apart = emoji.replace("denoise.predict", PredictNoise(batching="apart"))
    config: dict[str, Any] = {f"{PERTURBED[name]}_stop": 1.0} if name in PERTURBED else {}
    guider = getattr(sf.guiders, name)(**config)
    one, other = (run(pipe, guider=guider, **CALL) for pipe in (emoji, apart))
    assert (one.latents - other.latents).abs().max() < 1e-3


@pytest.mark.parametrize("name", ALL)
def test_a_second_call_with_an_interval_is_as_the_first(emoji: Graph, name: str) -> None:
    """5.3.1: the reference's second call fails."""
    guider = getattr(sf.guiders, name)(stop=0.5)
    first, did = priced(emoji, guider)
    second, again = priced(emoji, guider)
    assert torch.equal(first.latents, second.latents)
    assert did.rows == again.rows and sum(did.rows) <= sum(ROWS[name])


def test_smoothed_energy_changes_the_picture_for_its_price(emoji: Graph, plain: Result) -> None:
    """5.3.3: the reference pays for its pass and perturbs nothing: the picture is that of plain guidance."""
    made, did = priced(emoji, "seg")
    assert did.rows == [4, 2] * 4
    assert (made.latents - plain.latents).abs().max() > 0.01
    finite, _ = priced(emoji, sf.guiders.SmoothedEnergyGuidance(seg_blur_sigma=1.0), height=64, width=96)
    infinite, _ = priced(emoji, "seg", height=64, width=96)
    assert (finite.latents - infinite.latents).abs().max() > 1e-3


@pytest.mark.parametrize("name", PERTURBED)
def test_perturbation_without_guidance_by_the_prompt(emoji: Graph, name: str) -> None:
    """5.3.4: the reference runs the negative prompt there, unperturbed."""
    head = PERTURBED[name]
    guider = getattr(sf.guiders, name)(guidance_scale=1.0, **{f"{head}_start": 0.0, f"{head}_stop": 1.0})
    made, did = priced(emoji, guider)
    assert did.rows == [2, 2] * 4
    other, _ = priced(emoji, guider, negative_prompt="red")
    assert torch.equal(made.latents, other.latents)
    bare, _ = priced(emoji, "none")
    assert (made.latents - bare.latents).abs().max() > 0.01


@pytest.mark.parametrize("name", ["pag", "slg", "seg", "auto"])
def test_perturbing_leaves_the_shared_model_as_it_was(emoji: Graph, plain: Result, name: str) -> None:
    run(emoji, guider=name, **CALL)
    assert torch.equal(run(emoji, guider=sf.guiders.ClassifierFreeGuidance(), **CALL).latents, plain.latents)


def test_four_threads_with_guiders_of_their_own_draw_what_each_alone_draws(emoji: Graph) -> None:
    names = [name for name in guiders if name not in ("NoGuidance", "GuidanceSchedule")]
    serial = {name: run(emoji, guider=name, **CALL).latents for name in names}

    def draw(name: str) -> Result:
        return run(emoji, guider=name, **CALL)

    with ThreadPoolExecutor(4) as pool:
        for name, made in zip(names * 2, pool.map(draw, names * 2), strict=True):
            assert torch.equal(made.latents, serial[name])


def test_a_scale_for_each_picture(emoji: Graph) -> None:
    both = run(emoji, guidance_scale=[1.0, 6.0], **CALL)
    for row, scale in enumerate((1.0, 6.0)):
        alone = run(emoji, guidance_scale=scale, **CALL)
        assert (both.latents[row] - alone.latents[row]).abs().max() < 1e-3


def test_scales_are_inputs_of_a_call(emoji: Graph) -> None:
    pag = emoji.using(guider="pag")
    one = run(pag, perturbed_guidance_scale=9.0, **CALL)
    other = run(emoji, guider=sf.guiders.PerturbedAttentionGuidance(perturbed_guidance_scale=9.0), **CALL)
    assert torch.equal(one.latents, other.latents)


def test_a_guider_by_config(emoji: Graph) -> None:
    config = {"_class_name": "SkipLayerGuidance", "skip_layer_guidance_layers": [0, "mid"], "guidance_scale": 3.0}
    guider = sf.guiders.SkipLayerGuidance(skip_layer_guidance_layers=(0, "mid_block"), guidance_scale=3.0)
    one, other = (run(emoji, guider=g, **CALL) for g in (config, guider))
    assert torch.equal(one.latents, other.latents)
    parts = [[0.0, {"_class_name": "AutoGuidance", "dropout": 0.1}], [0.5, {"_class_name": "NoGuidance"}]]
    _, did = priced(emoji, {"_class_name": "GuidanceSchedule", "parts": parts})
    assert did.rows == [2, 2, 2, 2, 2, 2]


NAMING = {
    "a place": (sf.guiders.PerturbedAttentionGuidance(perturbed_guidance_layers=(0, 99)), "layer 99"),
    "a name": (sf.guiders.SkipLayerGuidance(skip_layer_guidance_layers="midd"), "layer 'midd'"),
    "a config": (
        sf.guiders.SmoothedEnergyGuidance(seg_guidance_config={"indices": 0, "fqn": "mid_blocks"}),
        "stack of layers 'mid_blocks'",
    ),
    "a weaker self": (sf.guiders.AutoGuidance(auto_guidance_layers=-1), "layer -1"),
    "a part of a schedule": (
        sf.guiders.GuidanceSchedule(
            parts=((0.0, sf.guiders.NoGuidance()), (0.5, sf.guiders.SkipLayerGuidance(skip_layer_guidance_layers=7)))
        ),
        "layer 7",
    ),
}


def refused(lost: str, by: str = r"denoise\.guider \(layers\)", beside: str = r"denoise\.predict \(unet\)") -> Any:
    text = rf"{by} .*UNet2DConditionModel has no {lost}.*mid_block\.attentions.* It meets {beside}"
    return pytest.raises(sf.WireError, match=text)


@pytest.mark.parametrize("case", NAMING)
def test_layers_that_are_not_there_are_refused_before_anything_is_loaded(
    emoji: Graph, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(handle: Handle) -> None:
        raise AssertionError(f"{handle} was loaded")

    monkeypatch.setattr(Handle, "load", load)
    guider, lost = NAMING[case]
    with refused(lost):
        emoji(**CALL, guider=guider)
    with refused(lost):
        emoji.using(guider=guider)
    with refused(lost):
        emoji.replace("denoise.guider", guider)
    with refused(lost):
        text2image().replace("denoise.guider", guider).bind(unet=emoji.bindings["unet"])


def test_layers_are_asked_of_a_model_that_is_bound_as_an_object_too(emoji: Graph) -> None:
    guider, lost = NAMING["a name"]
    unet = emoji.bindings["unet"].load()
    bare = text2image().replace("denoise.guider", guider)
    with refused(lost):
        bare.bind(unet=unet)
    there = sf.guiders.SkipLayerGuidance(skip_layer_guidance_layers="mid")
    assert text2image().replace("denoise.guider", there).bind(unet=unet).bindings["unet"] is unet
    with refused(lost, by=r"guider \(layers\)", beside=r"predict \(unet\)"):
        Graph({"predict": PredictNoise(unet=unet), "guider": guider})
