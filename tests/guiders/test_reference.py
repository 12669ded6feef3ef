"""Guiders beside the reference's on the same predictions, in every turn, driven by its own protocol.

The bound is 1e-5 of predictions of about unit size.
"""

from importlib import import_module
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.guiders.frequency import from_pyramid, laplacian_pyramid
from sfumato.blocks.guiders.tangential import on_main_direction

from ..presets.support import Reference, quiet, run
from .support import PERTURBED, PLAIN, SHAPE, WHOLE, Denoiser, answers, noise, their_turn, theirs, through

COMMON: list[dict[str, Any]] = [
    {},
    {"guidance_scale": 3.0, "guidance_rescale": 0.7},
    {"guidance_scale": 0.0},
    {"use_original_formulation": True, "guidance_rescale": 1.0},
    {"start": 0.25, "stop": 0.65},
    {"enabled": False},
]
_CFG_OFF: list[dict[str, Any]] = [
    {"guidance_scale": 1.0},
    {"guidance_scale": 0.0, "use_original_formulation": True},
]
APG = "adaptive_projected_guidance_"
OWN: dict[str, list[dict[str, Any]]] = {
    "ClassifierFreeGuidance": _CFG_OFF,
    "ClassifierFreeZeroStarGuidance": [*_CFG_OFF, {"zero_init_steps": 0}, {"zero_init_steps": 3}],
    "TangentialClassifierFreeGuidance": _CFG_OFF,
    "MagnitudeAwareGuidance": [*_CFG_OFF, {"alpha": 1.0}, {"alpha": 0.0, "use_original_formulation": True}],
    "AdaptiveProjectedGuidance": [
        *_CFG_OFF, {"eta": 0.0}, {f"{APG}momentum": -0.5, "eta": 0.3}, {f"{APG}rescale": 2.5}, {f"{APG}rescale": 0.0},
        {f"{APG}norm_dim": 1}, {f"{APG}norm_dim": (-1, -2), f"{APG}momentum": 0.4},
        {f"{APG}momentum": -0.75, "start": 0.2, "stop": 0.8, "guidance_rescale": 0.3},
    ],
    "AdaptiveProjectedMixGuidance": [
        {f"{APG}start_step": 2}, {f"{APG}start_step": 0, f"{APG}momentum": None},
        {f"{APG}scale": 4.0, "eta": 0.5, f"{APG}rescale": 1.0},
    ],
    "FrequencyDecoupledGuidance": [
        {"guidance_scales": [10.0, 5.0, 2.0]}, {"guidance_scales": [3.0]}, {"guidance_scales": [1.0, 1.0]},
        {"guidance_scales": [9.0, 1.5], "parallel_weights": 0.5},
        {"guidance_scales": [9.0, 1.5], "parallel_weights": [0.2, 1.0], "upcast_to_double": False},
        {"guidance_scales": [9.0, 1.5], "guidance_rescale": [0.7, 0.2], "guidance_rescale_space": "freq"},
        {"guidance_scales": [9.0, 1.5], "start": [0.3, 0.3], "stop": [0.8, 0.8], "guidance_rescale": 0.5},
    ],
    "AutoGuidance": [*_CFG_OFF],
    "PerturbedAttentionGuidance": [
        {"perturbed_guidance_scale": 0.0}, {"perturbed_guidance_start": 0.15, "perturbed_guidance_stop": 0.65},
        {"stop": 0.3, "perturbed_guidance_stop": 0.8, "use_original_formulation": True, "guidance_rescale": 0.5},
    ],
    "SkipLayerGuidance": [
        {"skip_layer_guidance_scale": 1.0}, {"skip_layer_guidance_start": 0.25, "skip_layer_guidance_stop": 0.9},
    ],
    "SmoothedEnergyGuidance": [
        {"seg_guidance_scale": 5.0, "seg_guidance_start": 0.05, "seg_guidance_stop": 0.5, "guidance_rescale": 0.2},
    ],
}  # fmt: skip
NEEDED: dict[str, dict[str, Any]] = {  # what the reference must be told and ours need not
    "AutoGuidance": {"auto_guidance_layers": [0], "dropout": 1.0},
    "PerturbedAttentionGuidance": {"perturbed_guidance_layers": [0]},
    "SkipLayerGuidance": {"skip_layer_guidance_layers": [0]},
    "SmoothedEnergyGuidance": {"seg_guidance_layers": [0], "seg_guidance_start": 0.01},
}
SCALES: dict[str, dict[str, Any]] = {
    "AdaptiveProjectedGuidance": {"guidance_scale": 7.5},
    "AdaptiveProjectedMixGuidance": {"guidance_scale": 3.5, f"{APG}scale": 10.0},
    "FrequencyDecoupledGuidance": {"guidance_scales": [10.0, 5.0]},
}
"""Guiders that change positive - negative before they scale it, and their scales."""


def continuous(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The config with which the reference gives c + (w - 1) d', as the papers; its own u + w d' jumps at w = 1."""
    if name not in SCALES or config.get("use_original_formulation"):
        return config
    scales = {key: config.get(key, default) for key, default in SCALES[name].items()}
    less = {key: [w - 1 for w in value] if isinstance(value, list) else value - 1 for key, value in scales.items()}
    return {**config, **less, "use_original_formulation": True}


SPARED = {"ClassifierFreeZeroStarGuidance"}  # ours asks nothing where the prediction is zero anyway


def _common(name: str) -> list[dict[str, Any]]:
    if name == "FrequencyDecoupledGuidance":  # which has several scales
        return [{k: v for k, v in case.items() if k != "guidance_scale"} for case in COMMON]
    if name == "ClassifierFreeGuidance":  # where 0 is no guidance: see the test below
        return [case for case in COMMON if case.get("guidance_scale") != 0]
    return COMMON


CASES = [(name, case) for name, own in OWN.items() for case in [*_common(name), *own]]


@pytest.fixture(autouse=True)
def pyramids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's frequencies come from kornia, which is not here: it gets our pyramid, checked by itself below."""
    module = import_module("diffusers.guiders.frequency_decoupled_guidance")
    monkeypatch.setattr(module, "_CAN_USE_KORNIA", True)
    monkeypatch.setattr(module, "build_laplacian_pyramid_func", laplacian_pyramid)

    def rebuilt(pyramid: list[torch.Tensor]) -> torch.Tensor:
        return from_pyramid(pyramid)

    monkeypatch.setattr(module, "build_image_from_pyramid", rebuilt)


BOUNDS = {"TangentialClassifierFreeGuidance": 1e-4}  # its reference is no more exact: see the test of its direction
SHAPES = {"MagnitudeAwareGuidance": (2, 64, 4)}  # with torch 2.13 the reference fails on latents of four dimensions


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_guider_is_that_of_the_reference_in_every_turn(diffusers: Any, name: str, case: dict[str, Any]) -> None:
    shape = SHAPES.get(name, SHAPE)
    config = {**{k: v for k, v in NEEDED.get(name, {}).items() if "start" in k}, **case}
    reference = theirs(diffusers, name, **{**NEEDED.get(name, {}), **continuous(name, config)})
    denoiser = Denoiser()
    ours = through(getattr(sf.guiders, name).from_config(config), PLAIN, denoiser, shape)
    for turn in range(WHOLE):
        expected, count = their_turn(reference, turn, shape)
        asked = denoiser.roles_at(turn)
        assert len(asked) == count or (name in SPARED and not asked)
        if name == "ClassifierFreeZeroStarGuidance" and bool(expected.isnan().all()):
            expected = torch.zeros_like(expected)  # it divides by the spread of its own zeros
        if asked == ["positive", "perturbed"] and name in PERTURBED and not config.get("use_original_formulation"):
            said = answers(turn, shape)  # a jump of the reference's: see the test of scale 1 below
            expected = expected + said["positive"] - said["perturbed"]
        assert (ours[turn] - expected).abs().max() <= BOUNDS.get(name, 1e-5) * max(1.0, float(expected.abs().max()))


def test_a_scale_of_0_is_no_guidance_and_one_pass() -> None:
    """As in the classic pipelines of the reference; its guider asks twice and gives the negative prediction."""
    denoiser = Denoiser()
    ours = through(sf.guiders.ClassifierFreeGuidance(guidance_scale=0.0), PLAIN, denoiser, SHAPE)
    for turn in range(WHOLE):
        assert denoiser.roles_at(turn) == ["positive"]
        assert torch.equal(ours[turn], answers(turn, SHAPE)["positive"])


@pytest.mark.parametrize("sides", [(8, 8), (64, 64)])
def test_the_main_direction_is_that_of_a_decomposition_in_double_precision(
    diffusers: Any, sides: tuple[int, int]
) -> None:
    """The reference decomposes in single precision, and is off by up to 2e-2 where both predictions are as long."""
    module = import_module("diffusers.guiders.tangential_classifier_free_guidance")
    theirs_off = 0.0
    for seed in range(20):
        c, u = noise(2 * seed, (1, 4, *sides)), noise(2 * seed + 1, (1, 4, *sides))
        both = torch.stack([c, u], 1).double().flatten(2)
        main = torch.linalg.svd(both, full_matrices=False)[2][:, 0]
        exact = ((u.double().flatten(1) * main).sum(1, keepdim=True) * main).reshape(u.shape)
        assert (on_main_direction(u, c) - exact).abs().max() < 1e-5
        theirs_off = max(theirs_off, float((module.normalized_guidance(c, u, 0.0) - exact).abs().max()))
    assert theirs_off > 1e-5


def test_the_pyramid_is_kornias() -> None:
    """Numbers of kornia 0.9.0: build_laplacian_pyramid(sin(1 … 64), 2). All others agreed within 3e-7."""
    x = torch.arange(1, 65, dtype=torch.float32).reshape(1, 1, 8, 8).sin()
    fine, coarse = laplacian_pyramid(x, 2)
    first = [0.895293, 0.975619, 0.220126, -0.705205, -0.974661, -0.365081, 0.526299, 0.843836]
    assert (fine.flatten()[:8] - torch.tensor(first)).abs().max() < 1e-5
    first = [-0.034638, -0.200192, 0.112078, 0.231235, -0.008393, 0.061989, -0.0223, -0.080158]
    assert (coarse.flatten()[:8] - torch.tensor(first)).abs().max() < 1e-5
    assert abs(float(fine.square().sum()) - 31.629925) < 1e-4
    assert abs(float(coarse.square().sum()) - 0.240478) < 1e-5


@pytest.mark.parametrize(("scale", "pag_scale"), [(7.0, 3.0), (1.0, 3.0), (4.0, 0.0)])
def test_perturbed_attention_is_that_of_the_classic_pipeline(
    diffusers: Any, emoji: Graph, emoji_reference: Reference, scale: float, pag_scale: float
) -> None:
    """The paper's own setting: the middle of the U-Net, in every step; also with no guidance by the prompt."""
    kinds = emoji_reference.pipe.components
    values: dict[str, Any] = {"prompt": "a fish", "negative_prompt": "blue", "num_inference_steps": 4}
    with quiet():
        scheduler = diffusers.DDIMScheduler.from_config(emoji_reference.config)
        pipe = diffusers.StableDiffusionPAGPipeline(
            **{**kinds, "scheduler": scheduler}, requires_safety_checker=False, pag_applied_layers="mid"
        )
        pipe.set_progress_bar_config(disable=True)
        expected = pipe(
            generator=torch.Generator().manual_seed(1), output_type="latent", guidance_scale=scale,
            pag_scale=pag_scale, **values,
        ).images  # fmt: skip
    guider = sf.guiders.PerturbedAttentionGuidance(
        guidance_scale=scale, perturbed_guidance_scale=pag_scale,
        perturbed_guidance_start=0.0, perturbed_guidance_stop=1.0,
    )  # fmt: skip
    ours = run(emoji, seed=1, scheduler="ddim", guider=guider, **values).latents
    assert (ours - expected).abs().max() < 1e-4


def test_at_scale_1_perturbation_goes_on_where_the_references_guiders_jump(diffusers: Any) -> None:
    """c + s (c - p), as in the paper and the classic pipeline, and as scales near 1 give; theirs is p + s (c - p)."""
    at, near = (
        through(sf.guiders.PerturbedAttentionGuidance(guidance_scale=scale, perturbed_guidance_stop=1.0))
        for scale in (1.0, 1.0001)
    )
    reference = theirs(
        diffusers, "PerturbedAttentionGuidance", guidance_scale=1.0, **NEEDED["PerturbedAttentionGuidance"]
    )
    assert max(float((a - b).abs().max()) for a, b in zip(at, near, strict=True)) < 1e-3
    assert (at[1] - their_turn(reference, 1)[0]).abs().max() > 0.5


def test_octaves_that_are_off_stay_the_positive_ones(diffusers: Any) -> None:
    """The reference puts the last guided octave in their place, of another size, or fails for want of one."""
    ours = through(sf.guiders.FrequencyDecoupledGuidance(guidance_scales=(1.0, 9.0)))[3]
    c, u = (laplacian_pyramid(answers(3)[role], 2) for role in ("positive", "negative"))
    assert (ours - from_pyramid([c[0], u[1] + 9 * (c[1] - u[1])])).abs().max() < 1e-5
    with pytest.raises(UnboundLocalError):
        their_turn(theirs(diffusers, "FrequencyDecoupledGuidance", guidance_scales=[1.0, 9.0]), 3)


@pytest.mark.parametrize("sides", [(12, 20), (9, 13), (3, 2), (5, 1)])
def test_frequencies_are_decoupled_at_any_size(sides: tuple[int, int]) -> None:
    """kornia pads sides that are no powers of two, and the reference's guided prediction is then of another size."""
    shape = (2, 4, *sides)
    guided = through(sf.guiders.FrequencyDecoupledGuidance(), shape=shape)
    assert all(prediction.shape == shape and bool(prediction.isfinite().all()) for prediction in guided)
    assert (from_pyramid(laplacian_pyramid(noise(3, shape), 3)) - noise(3, shape)).abs().max() < 1e-5
