"""A recipe: the preset's own blocks, with a loss at their end."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.blocks.text.sd import EncodePrompt
from sfumato.blocks.train.losses import MeanSquaredError, PseudoHuber
from sfumato.blocks.train.noise import AddNoise, OffsetNoise, PerturbNoise
from sfumato.blocks.train.timesteps import DrawLogitNormal, DrawMode, DrawTimesteps, DrawUniform, MakeTrainingSchedule
from sfumato.blocks.train.weights import WeightByCosMap, WeightByMinSNR, WeightBySigma, WeightEqually
from sfumato.components.random import Random
from sfumato.components.schedulers.training_schedule import training_schedule
from sfumato.presets import flux, pixart, sd, sd3, sdxl
from sfumato.presets.training.recipe import recipe


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return {"pixels": pixels, "prompt": ["a fox", "an apple", "a red car"]}


def test_the_loss_is_that_of_its_formula(emoji: sf.Graph, batch: dict[str, Any]) -> None:
    out = recipe(emoji)(**batch, random=Random.seeded([7]))

    generator, steps = torch.Generator().manual_seed(7), training_schedule(emoji.bindings["scheduler"].load())
    vae, unet = (emoji.bindings[name].load() for name in ("vae", "unet"))
    with torch.no_grad():
        latents = vae.scale(vae.distribution(vae.moments(batch["pixels"] * 2 - 1)).sample(generator))
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (3,), generator=generator)
        levels = torch.tensor([steps[999 - int(t)].level for t in timesteps])
        alpha, sigma = levels.T[:, :, None, None, None]
        encoded = emoji.only("positive")(prompt=batch["prompt"]).positive
        prediction = unet(alpha * latents + sigma * noise, timesteps, encoded.tokens)
    expected = ((prediction - (alpha * noise - sigma * latents)) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(out.losses, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.loss, expected.mean(), rtol=1e-5, atol=1e-6)


def test_gradients_are_recorded_only_on_request(emoji: sf.Graph, batch: dict[str, Any]) -> None:
    unet = sf.models.UNet2DConditionModel.from_config(emoji.bindings["unet"].load().to_config())
    graph = recipe(emoji).bind(unet=unet)
    assert not graph(**batch, random=Random.seeded([7])).loss.requires_grad
    with sf.gradients():
        graph(**batch, random=Random.seeded([7])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters())


@pytest.mark.parametrize("preset", [sd.text2image, sdxl.text2image, sd3.text2image, flux.text2image, pixart.text2image])
def test_every_family_has_a_recipe(preset: Callable[[], sf.Graph]) -> None:
    graph = recipe(preset())
    assert {"loss", "losses", "random"} <= set(graph.outputs)
    assert not {"rows", "denoise", "decode", "start"} & set(graph.nodes)


def test_a_recipe_needs_a_loop() -> None:
    with pytest.raises(sf.ConfigError, match="a graph with a loop named 'denoise', got one with encode"):
        recipe(sf.Graph(encode=EncodePrompt()))


# -------------------------------------------------------------------------------------------------- noise and timesteps
@pytest.mark.parametrize("zero_snr", [False, True])
def test_noise_is_added_as_the_reference_adds_it(diffusers: Any, zero_snr: bool) -> None:
    keys: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    theirs = diffusers.DDPMScheduler(**keys, rescale_betas_zero_snr=zero_snr)
    steps = training_schedule(sf.schedulers.DDPMScheduler(**keys, rescale_betas_zero_snr=zero_snr))
    clean, noise, timesteps = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.tensor([0, 1, 500, 999])
    row_steps = tuple(steps[999 - int(t)] for t in timesteps)
    assert [step.timestep for step in row_steps] == timesteps.tolist()
    ours = AddNoise()(clean, noise, row_steps).noisy_latents
    torch.testing.assert_close(ours, theirs.add_noise(clean, noise, timesteps), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("keys", [{}, {"shift": 3.0}, {"use_dynamic_shifting": True}])
def test_the_levels_of_flow_matching_are_the_published_ones(diffusers: Any, keys: dict[str, Any]) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(**keys)
    steps = training_schedule(sf.schedulers.FlowMatchEulerDiscreteScheduler(**keys))
    torch.testing.assert_close(torch.tensor([step.level.sigma for step in steps]), theirs.sigmas, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(steps.device_timesteps, theirs.timesteps, rtol=1e-6, atol=1e-4)


def test_other_processes_have_no_schedule_of_training() -> None:
    with pytest.raises(sf.ConfigError, match="EDMEulerScheduler does not say at which noise levels"):
        training_schedule(sf.schedulers.EDMEulerScheduler())


def drawn(block: Any, rows: int = 4000) -> torch.Tensor:
    """The numbers of drawn steps as fractions, 0 at the noisiest."""
    steps = training_schedule(sf.schedulers.FlowMatchEulerDiscreteScheduler())
    row_steps, _ = block(torch.zeros(rows, 1, 1, 1), steps, Random.seeded([3]))
    return torch.tensor([step.index / 1000 for step in row_steps])


def test_timesteps_follow_their_densities() -> None:
    for block in (DrawTimesteps(), DrawUniform()):
        u = drawn(block)
        assert abs(u.mean() - 0.5) < 0.02 and abs(u.std() - 12**-0.5) < 0.01
    logit = torch.logit(drawn(DrawLogitNormal(mean=0.5, std=0.7)).clamp(1e-3, 1 - 1e-3))
    assert abs(logit.mean() - 0.5) < 0.05 and abs(logit.std() - 0.7) < 0.05
    u = torch.rand(4000, generator=torch.Generator().manual_seed(3))
    mode = 1 - u - 1.29 * (torch.cos(torch.pi * u / 2) ** 2 - 1 + u)
    assert torch.equal(drawn(DrawMode()), (mode * 1000).long().clamp(0, 999) / 1000)


def test_timesteps_stay_between_the_first_and_the_last() -> None:
    steps = MakeTrainingSchedule(scheduler=sf.schedulers.DDPMScheduler())().steps
    row_steps, _ = DrawTimesteps(first=300, last=309)(torch.zeros(400, 1, 1, 1), steps, Random.seeded([1]))
    assert {step.timestep for step in row_steps} == set(range(300, 310))


def test_a_seed_for_each_row_gives_what_each_row_gives_alone() -> None:
    seeds = Random.seeded([5, 6])
    both, _ = seeds.integers(2, 1000)
    alone = [Random.seeded([seed]).integers(1, 1000)[0] for seed in (5, 6)]
    assert torch.equal(both, torch.cat(alone))


def test_noise_is_shifted_and_perturbed() -> None:
    noise, random = torch.zeros(2, 4, 8, 8), Random.seeded([1])
    offset, _ = OffsetNoise(noise_offset=0.5)(noise, random)
    assert torch.equal(offset, 0.5 * random.draw(2, (4, 1, 1))[0].expand_as(noise))
    perturbed, _ = PerturbNoise(input_perturbation=0.1)(noise, random)
    assert torch.equal(perturbed, 0.1 * random.draw(2, (4, 8, 8))[0])


# ----------------------------------------------------------------------------------------------------- weights and loss
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_its_formula_and_finite(kind: Any) -> None:
    scheduler = sf.schedulers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type=kind)
    steps = training_schedule(scheduler)
    weights = WeightByMinSNR(scheduler=scheduler)(tuple(steps)).weights
    snr = torch.tensor([step.level.alpha**2 / step.level.sigma**2 for step in steps])
    least = snr.clamp(max=5.0)
    expected = {"epsilon": least / snr, "v_prediction": least / (snr + 1), "sample": least}[kind]
    assert weights.isfinite().all()
    torch.testing.assert_close(weights[1:], expected[1:])
    assert weights[0] == {"epsilon": 1.0, "v_prediction": 0.0, "sample": 0.0}[kind]


def test_weights_of_flow_matching_are_their_formulas() -> None:
    steps = training_schedule(sf.schedulers.FlowMatchEulerDiscreteScheduler())
    sigma = torch.tensor([step.level.sigma for step in steps])
    torch.testing.assert_close(WeightBySigma()(tuple(steps)).weights, sigma**-2.0)
    torch.testing.assert_close(WeightByCosMap()(tuple(steps)).weights, 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma**2)))
    assert WeightEqually()(tuple(steps)).weights.unique().tolist() == [1.0]


def test_a_mask_leaves_numbers_out() -> None:
    prediction, target, weights = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([1.0, 2.0])
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    for block, each in (
        (MeanSquaredError(), (prediction - target) ** 2),
        (PseudoHuber(huber_c=0.1), ((prediction - target) ** 2 + 0.01).sqrt() - 0.1),
    ):
        loss, losses = block(prediction, target, weights, mask)
        torch.testing.assert_close(losses, each[..., :4].mean((1, 2, 3)) * weights)
        torch.testing.assert_close(loss, losses.mean())
        torch.testing.assert_close(block(prediction, target, weights).loss, (each.mean((1, 2, 3)) * weights).mean())


def test_timesteps_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(sf.UnfitValue) as error:
        drawn(DrawTimesteps(first=900, last=100))
    assert str(error.value) == (
        "There is no timestep from 900 to 100, which is the last. Lower first=, or raise last=."
    )
    with pytest.raises(sf.ConfigError, match=r"DrawTimesteps.first takes int .*, got -1\.$"):
        DrawTimesteps(first=-1)


def test_pictures_whose_edge_would_be_lost_are_refused(emoji: sf.Graph) -> None:
    with pytest.raises(sf.UnfitValue) as error:
        recipe(emoji)(pixels=torch.zeros(1, 3, 64, 60), prompt="a fox", random=Random.seeded([7]))
    assert str(error.value) == (
        "Pictures of 64x60 (height x width) cannot be encoded: sides must be multiples of 8. Set size= of the data."
    )
