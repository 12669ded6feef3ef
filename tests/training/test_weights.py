"""Weights, masks and densities of training against their formulas."""

import math
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.blocks.train.losses import MeanAbsoluteError, MeanSquaredError, ShrinkLossMask
from sfumato.blocks.train.predict import CompareClean, MakeTarget
from sfumato.blocks.train.timesteps import DrawCosMap, DrawShifted, DrawShiftedBySize
from sfumato.blocks.train.weights import WeightByMinSNR, WeightDebiased, WeightPrior
from sfumato.components.random import Random
from sfumato.components.schedulers.training_schedule import training_schedule

KINDS = {
    "epsilon": sf.schedulers.DDPMScheduler(rescale_betas_zero_snr=True),
    "v_prediction": sf.schedulers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    "sample": sf.schedulers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type="sample"),
    "flow": sf.schedulers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}


def errors(kind: str) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Steps with signal, their SNR, and the squared error of predictions whose clean latents are wrong by 1.

    The last one is of the noise that such a prediction states.
    """
    steps = tuple(training_schedule(KINDS[kind]))[1:-1]
    levels = torch.tensor([step.level for step in steps], dtype=torch.float64)
    alpha, sigma = levels.T
    snr = (alpha / sigma) ** 2
    of_prediction = {
        "epsilon": snr, "v_prediction": 1 / sigma**2, "sample": torch.ones_like(snr), "flow": 1 / sigma**2,
    }[kind]  # fmt: skip
    return steps, snr, of_prediction, snr


@pytest.mark.parametrize("kind", KINDS)
def test_weights_mean_the_same_whatever_the_model_predicts(kind: str) -> None:
    """On the scale of the clean latents min-SNR is min(SNR, gamma); on that of the noise debiasing is 1 / sqrt(SNR)."""
    steps, snr, of_prediction, of_noise = errors(kind)
    scheduler = KINDS[kind]
    min_snr = WeightByMinSNR(scheduler=scheduler)(steps).weights.double() * of_prediction
    torch.testing.assert_close(min_snr, snr.clamp(max=5.0), rtol=1e-4, atol=1e-6)
    debiased = WeightDebiased(scheduler=scheduler, least_snr=1e-12)(steps).weights.double() * of_prediction
    torch.testing.assert_close(debiased, of_noise / snr.sqrt(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_finite_without_signal_and_without_noise(kind: str) -> None:
    steps = tuple(training_schedule(KINDS[kind]))
    for block in (WeightByMinSNR(scheduler=KINDS[kind]), WeightDebiased(scheduler=KINDS[kind])):
        weights = block(steps).weights
        assert weights.isfinite().all() and (weights >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_clean_latents_are_those_that_a_right_prediction_points_to(kind: str) -> None:
    steps = tuple(training_schedule(KINDS[kind]))[300:302]
    clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    alpha, sigma = torch.tensor([step.level for step in steps]).T[:, :, None, None, None]
    target = MakeTarget(scheduler=KINDS[kind])(clean, noise, steps).target
    found, wanted = CompareClean(scheduler=KINDS[kind])(target, alpha * clean + sigma * noise, clean, steps)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_clean_latents_need_a_signal() -> None:
    step, any_latents = training_schedule(KINDS["epsilon"])[0], torch.zeros(1, 4, 8, 8)
    with pytest.raises(sf.UnfitValue, match="A step has no signal, so a prediction of noise points to no clean"):
        CompareClean(scheduler=KINDS["epsilon"])(any_latents, any_latents, any_latents, (step,))


def test_a_loss_with_a_prior_is_that_of_the_subject_and_a_share_of_the_class() -> None:
    is_prior = torch.tensor([False, True, True, False])
    prediction, target = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    each = ((prediction - target) ** 2).flatten(1).mean(1)
    weights = WeightPrior(prior_weight=0.3)(torch.ones(4), is_prior).weights
    loss = MeanSquaredError()(prediction, target, weights).loss
    torch.testing.assert_close(loss, each[~is_prior].mean() + 0.3 * each[is_prior].mean())


def test_a_masked_loss_counts_where_the_mask_is_white() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, :, 8:] = 1
    latents, prediction = torch.zeros(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    shrunk = ShrinkLossMask()(mask, latents).loss_mask
    assert shrunk[0, 0].tolist() == [[0, 1], [0, 1]]
    loss = MeanAbsoluteError()(prediction, latents, loss_mask=shrunk).loss
    torch.testing.assert_close(loss, prediction[..., 1].abs().mean())
    partly = ShrinkLossMask(unmasked_weight=0.25)(mask, latents).loss_mask
    assert partly[0, 0].tolist() == [[0.25, 1], [0.25, 1]]


def test_shifted_timesteps_and_cosmap_follow_their_densities() -> None:
    steps = training_schedule(sf.schedulers.FlowMatchEulerDiscreteScheduler())
    latents = torch.zeros(4000, 1, 1, 1)

    def sigmas(block: Any) -> torch.Tensor:
        return torch.tensor([step.level.sigma for step in block(latents, steps, Random.seeded([3])).row_steps])

    t = sigmas(DrawShifted(shift=4.0, mean=0.2, std=0.8)).clamp(1e-3, 1 - 1e-3)
    logit = torch.logit(t / (4 - 3 * t))
    assert abs(logit.mean() - 0.2) < 0.05 and abs(logit.std() - 0.8) < 0.05
    t = sigmas(DrawCosMap())
    cumulative = 2 / torch.pi * torch.atan(t / (1 - t))  # of the density 2 / (pi (1 - 2 t + 2 t^2))
    assert abs(cumulative.mean() - 0.5) < 0.02 and abs(cumulative.std() - 12**-0.5) < 0.01


def test_timesteps_are_shifted_as_the_scheduler_shifts_for_the_size() -> None:
    scheduler = sf.schedulers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    steps, latents, random = training_schedule(scheduler), torch.zeros(64, 4, 32, 32), Random.seeded([3])
    by_size = DrawShiftedBySize(scheduler=scheduler)(latents, steps, random).row_steps  # 256 tokens: base_shift
    assert by_size == DrawShifted(shift=math.exp(0.5))(latents, steps, random).row_steps
    with pytest.raises(sf.ConfigError, match="does not depend on the size of the picture: use_dynamic_shifting is"):
        DrawShiftedBySize(scheduler=sf.schedulers.FlowMatchEulerDiscreteScheduler())(latents, steps, random)
