"""A guider that reads no negative prompt, as it is set, encodes none, and the picture is the same to the bit."""

from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Block, Graph
from sfumato.blocks.guiders.none import NoGuidance, WithoutNegative

from ..presets.support import counted, run

CALL: dict[str, Any] = {"prompt": ["a fish", "a cat"], "seed": 1, "num_inference_steps": 2}
g = sf.guiders
LEANING: dict[str, type[Any]] = {
    "cfg": g.ClassifierFreeGuidance,
    "apg": g.AdaptiveProjectedGuidance,
    "mix": g.AdaptiveProjectedMixGuidance,
    "zero star": g.ClassifierFreeZeroStarGuidance,
    "magnitude": g.MagnitudeAwareGuidance,
    "tangential": g.TangentialClassifierFreeGuidance,
    "pag": g.PerturbedAttentionGuidance,
    "slg": g.SkipLayerGuidance,
    "seg": g.SmoothedEnergyGuidance,
}
OFF: dict[str, dict[str, Any]] = {
    "a scale of 1": {"guidance_scale": 1.0},
    "scales of 1": {"guidance_scale": (1.0, 1.0)},
    "an original scale of 0": {"guidance_scale": 0.0, "use_original_formulation": True},
    "an empty interval": {"start": 0.5, "stop": 0.5},
    "not enabled": {"enabled": False},
}
OTHERS: dict[str, Any] = {
    "octaves of 1": g.FrequencyDecoupledGuidance(guidance_scales=(1.0, 1.0)),
    "octaves that end where they begin": g.FrequencyDecoupledGuidance(start=(0.5, 0.2), stop=(0.5, 0.2)),
    "no perturbation": g.PerturbedAttentionGuidance(guidance_scale=1.0, perturbed_guidance_scale=0.0),
    "no blur": g.SmoothedEnergyGuidance(guidance_scale=1.0, seg_blur_sigma=0.0),
    "none skipped": g.SkipLayerGuidance(
        guidance_scale=1.0, skip_layer_guidance_start=0.3, skip_layer_guidance_stop=0.3
    ),
    "parts without": g.GuidanceSchedule(parts=((0.0, g.NoGuidance()), (0.5, g.AutoGuidance(guidance_scale=2.0)))),
    "parts that are off": g.GuidanceSchedule(
        parts=((0.0, g.ClassifierFreeGuidance(guidance_scale=1.0)), (0.5, g.AdaptiveProjectedGuidance(enabled=False)))
    ),
    "a part that perturbs": g.GuidanceSchedule(
        parts=((0.0, g.PerturbedAttentionGuidance(guidance_scale=1.0)), (0.5, g.NoGuidance()))
    ),
}
SECOND = "adaptive_projected_guidance_scale"  # of the mix, which is off where both of its scales are neutral


def off(name: str, **config: Any) -> dict[str, Any]:
    """The config that turns off the guidance by the negative prompt."""
    return {**config, SECOND: config["guidance_scale"]} if name == "mix" and "guidance_scale" in config else config


GUIDERS = {
    **{f"{name}, {how}": cls(**off(name, **more)) for name, cls in LEANING.items() for how, more in OFF.items()},
    **OTHERS,
}


def has_no_simpler_form(_: Block) -> None:
    """`Block.simplified` of a guider that has no simpler form."""


@pytest.mark.parametrize("name", GUIDERS)
def test_the_negative_prompt_is_not_encoded_and_the_picture_is_the_same(
    emoji: Graph, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    guider = GUIDERS[name]
    with counted(emoji) as light:
        made = run(emoji, guider=guider, **CALL)
    monkeypatch.setattr(type(guider), "simplified", has_no_simpler_form)
    with counted(emoji) as heavy:
        whole = run(emoji, guider=guider, **CALL)
    assert (light.text_encoder, heavy.text_encoder) == (1, 2)
    assert light.rows == heavy.rows
    assert torch.equal(made.latents, whole.latents)


@pytest.mark.parametrize("name", LEANING)
def test_the_scale_of_a_call_counts_and_not_the_block_s(emoji: Graph, name: str) -> None:
    pipe = emoji.using(guider=LEANING[name]())
    for scale, encoded in ((1.0, 1), (3.0, 2)):
        with counted(pipe) as did:
            run(pipe, **off(name, guidance_scale=scale), **CALL)
        assert did.text_encoder == encoded


def test_what_still_reads_it_stays() -> None:
    assert all(cls().simplified() is None for cls in LEANING.values())
    assert g.FrequencyDecoupledGuidance(guidance_scales=(1.0, 5.0)).simplified() is None
    assert g.GuidanceSchedule(parts=((0.0, g.NoGuidance()), (0.5, g.ClassifierFreeGuidance()))).simplified() is None


def test_a_guider_that_asks_once_is_none_and_one_that_asks_more_is_kept() -> None:
    one: dict[str, Any] = {"guidance_scale": 1.0}
    for name in ("cfg", "apg", "mix"):
        assert isinstance(LEANING[name](**off(name, **one)).simplified(), NoGuidance)
    assert g.AdaptiveProjectedMixGuidance(**one).simplified() is None  # its later steps have a scale of their own
    assert isinstance(g.PerturbedAttentionGuidance(**one).simplified(), WithoutNegative)
    assert isinstance(g.ClassifierFreeZeroStarGuidance(**one).simplified(), WithoutNegative)  # its first steps are zero
    assert isinstance(g.ClassifierFreeZeroStarGuidance(zero_init_steps=0, **one).simplified(), NoGuidance)
