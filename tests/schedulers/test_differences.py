"""Where the reference is wrong, refuses or gives no number, and we differ on purpose. Each test says why."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.components.schedulers import (
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    Schedule,
    Scheduler,
    UniPCMultistepScheduler,
)
from sfumato.components.schedulers.exponential_integrator import phis
from sfumato.graph.errors import ConfigError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

reference: Any = diffusers  # Any: it types little
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*algorithm_type:FutureWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]
SHAPE = (1, 2, 4, 4)


def randn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def model(x: Tensor) -> Tensor:
    return torch.tanh(0.6 * x) * 0.8


def their_run(theirs: Any, n: int, noise: Tensor | None = None) -> Tensor:
    theirs.set_timesteps(n)
    theirs.set_begin_index(0)
    x = randn(0) * theirs.init_noise_sigma
    extra = {} if noise is None else {"variance_noise": noise}
    for t in theirs.timesteps:
        x = theirs.step(model(theirs.scale_model_input(x, t)), t, x, **extra).prev_sample
    return x


def our_run(ours: Scheduler, schedule: Schedule, noise: Tensor | None = None) -> Tensor:
    x, history = randn(0) * schedule.noise_scale, ()
    for step in schedule:
        drawn = (randn(step.index) if noise is None else noise) if step.noisy else None
        x, history = ours.advance(x, model(x * step.scale_in), step, history, drawn)
    return x


def test_the_third_order_of_the_sde_solver_is_a_small_correction_where_the_reference_has_a_wrong_sign() -> None:
    """There the third weight ends in "- 0.5" where it must be "+ 0.5": it tends to -1 for short steps, not to 0."""
    assert phis(-2e-3, 3)[2] == pytest.approx(0, abs=1e-3)
    quiet = torch.zeros(SHAPE)

    def change(by_order: dict[int, Tensor]) -> float:
        return float((by_order[3] - by_order[2]).abs().max())

    config = {"algorithm_type": "sde-dpmsolver++", "lower_order_final": False}
    made = {order: DPMSolverMultistepScheduler.from_config({**config, "solver_order": order}) for order in (2, 3)}
    ours = {order: our_run(scheduler, scheduler.steps(25), quiet) for order, scheduler in made.items()}
    theirs = {
        order: their_run(reference.DPMSolverMultistepScheduler(**config, solver_order=order), 25, quiet)
        for order in (2, 3)
    }
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-4, atol=1e-5)
    assert change(ours) < 0.5 * change(theirs)


def test_the_third_order_of_the_sde_solver_for_noise_runs_where_the_reference_has_no_branch() -> None:
    config: dict[str, Any] = {"algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"}
    with pytest.raises(UnboundLocalError):
        their_run(reference.DPMSolverMultistepScheduler(**config), 10, torch.zeros(SHAPE))
    ours = DPMSolverMultistepScheduler(**config)
    assert torch.isfinite(our_run(ours, ours.steps(10))).all()


@pytest.mark.parametrize("config", [{"solver_type": "bh1"}, {"lower_order_final": False}], ids=str)
def test_unipc_ends_without_noise_where_the_reference_gives_nan(config: dict[str, Any]) -> None:
    """The end is infinitely far in lambda: there B(h) of "bh1" is 0 times infinity, and slopes divide by 0."""
    assert not their_run(reference.UniPCMultistepScheduler(**config), 5).isfinite().any()
    ours = UniPCMultistepScheduler(**config)
    assert torch.isfinite(our_run(ours, ours.steps(5))).all()


def test_noise_prediction_cannot_end_without_noise() -> None:
    """The reference refuses it for DPM-Solver, and gives nan for UniPC."""
    assert their_run(reference.UniPCMultistepScheduler(predict_x0=False), 5).isnan().all()
    with pytest.raises(ConfigError, match="Set final_sigmas_type='sigma_min'"):
        UniPCMultistepScheduler(predict_x0=False)
    with pytest.raises(ConfigError, match="Set final_sigmas_type='sigma_min'"):
        DPMSolverMultistepScheduler(algorithm_type="dpmsolver")


def test_a_prediction_that_means_nothing_at_these_levels_is_refused() -> None:
    """The reference reads a velocity of flow at variance-preserving levels, and v at straight ones."""
    with pytest.raises(ConfigError, match="needs use_flow_sigmas=True for prediction_type='flow_prediction'"):
        DPMSolverMultistepScheduler(prediction_type="flow_prediction")
    with pytest.raises(ConfigError, match="takes no v_prediction with use_flow_sigmas"):
        DPMSolverMultistepScheduler(prediction_type="v_prediction", use_flow_sigmas=True)
    with pytest.raises(ConfigError, match="takes use_karras_sigmas or use_flow_sigmas, not both"):
        DPMSolverMultistepScheduler(use_karras_sigmas=True, use_flow_sigmas=True)


def test_ancestral_middles_are_exact_where_the_reference_loses_digits() -> None:
    """It takes the root of next**2 - up**2, whose digits cancel where noise falls steeply (cosine betas); the middle in
    log sigma between sigma and next**2 / sigma is `next` itself. On other curves its middles become nan.
    """
    config: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
    theirs = reference.KDPM2AncestralDiscreteScheduler(**config)
    theirs.set_timesteps(10)
    assert abs(float(theirs.sigmas_interpol[0] / theirs.sigmas[1]) - 1) > 0.01
    ours = KDPM2AncestralDiscreteScheduler(**config)
    assert ours.steps(10).sigmas[1] == float(theirs.sigmas[1])
    assert torch.isfinite(our_run(ours, ours.steps(10))).all()


@pytest.mark.parametrize("scheduler", [PNDMScheduler(skip_prk_steps=True), LMSDiscreteScheduler()])
def test_a_multistep_run_that_starts_in_the_middle_warms_up(scheduler: Scheduler) -> None:
    """The reference's PNDM takes the second step of any run for the correction of the first, and steps past its level;
    its LMS weighs derivatives by the step's number, and leaves out the weights that have none. Ours read their history.
    """
    point, schedule = randn(7), scheduler.steps(10)
    tail = schedule[schedule.places.index(4) :]
    x, history = scheduler.add_noise(point, randn(8), tail[0]), ()
    for step in tail:
        x, history = scheduler.advance(x, (x - step.level.alpha * point) / step.level.sigma, step, history)
    end = schedule.levels[-1]
    assert float((x - end.alpha * point).abs().max()) < 1e-4 + 5 * end.sigma


def test_the_last_level_of_flow_is_shifted_twice_unless_one_asks_for_once() -> None:
    """diffusers #13243: the constructor shifts the ends of the range, and set_timesteps shifts what lies between."""
    theirs = reference.FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(1000)
    published = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert published.steps(1000).sigmas[-2] == float(theirs.sigmas[-2]) == pytest.approx(0.008929, abs=1e-6)
    once = FlowMatchEulerDiscreteScheduler(shift=3.0, shift_tail_twice=False)
    assert once.steps(1000).sigmas[-2] == pytest.approx(0.002994, abs=1e-6)
    assert "shift_tail_twice" not in published.to_config()


def test_flow_goes_by_sigmas_that_a_pipeline_gives_and_says_what_dynamic_shifting_needs() -> None:
    """As Flux does: even levels and a shift by the picture's size. Ours name the end too."""
    given = [1 - k / 8 for k in range(8)]
    theirs = reference.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=given, mu=0.5 + 0.65 * (1024 - 256) / 3840)
    ours = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    schedule = ours.steps(99, sigmas=[*given, 0.0], image_tokens=1024)
    torch.testing.assert_close(torch.tensor(schedule.sigmas), theirs.sigmas, rtol=1e-6, atol=0)
    torch.testing.assert_close(schedule.device_timesteps, theirs.timesteps, rtol=1e-6, atol=0)
    with pytest.raises(ConfigError, match=r"Pass steps\(n, image_tokens"):
        ours.steps(8)


def test_a_run_backwards_along_flow_goes_to_more_noise() -> None:
    """There the levels of a run forwards are taken as they are, and noise falls. The sde kinds are refused."""
    theirs = reference.DPMSolverMultistepInverseScheduler(use_flow_sigmas=True)
    theirs.set_timesteps(10)
    assert theirs.sigmas[0] > theirs.sigmas[-1]
    flow: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    sigmas = DPMSolverMultistepInverseScheduler(**flow).steps(10).sigmas
    assert list(sigmas) == sorted(set(sigmas))
    assert sigmas[-1] == DPMSolverMultistepScheduler(**flow).steps(10).sigmas[0]
    with pytest.raises(ConfigError, match="no algorithm_type 'sde-dpmsolver"):
        DPMSolverMultistepInverseScheduler(algorithm_type="sde-dpmsolver++")  # pyright: ignore[reportArgumentType]  # refused at run time too


def test_a_sample_run_backwards_and_forwards_again_is_the_sample() -> None:
    """On a Gaussian of known score, within what both solvers leave of second order in 200 steps."""
    back = DPMSolverMultistepInverseScheduler()
    x = sample = randn(3) * 0.5
    for scheduler, sigmas in ((back, None), (DPMSolverMultistepScheduler(), back.steps(200).sigmas[::-1])):
        history = ()
        for step in scheduler.steps(200, sigmas=sigmas):
            alpha, sigma = step.level
            noise = sigma / (alpha**2 * 0.25 + sigma**2) * x
            x, history = scheduler.advance(x, noise, step, history)
    torch.testing.assert_close(x, sample, rtol=2e-3, atol=1e-4)


def test_two_steps_at_one_timestep_are_two_steps() -> None:
    """Rounded timesteps of a curve may coincide. The reference looks a level up by timestep, so without a begin index
    it starts such a run at its second level, and runs out of levels at the end.
    """
    config: dict[str, Any] = {"use_beta_sigmas": True, "rescale_betas_zero_snr": True}
    theirs = reference.DPMSolverMultistepScheduler(**config)
    theirs.set_timesteps(25)
    assert theirs.timesteps[0] == theirs.timesteps[1]
    with pytest.raises(IndexError):
        run_without_a_beginning(theirs)
    ours = DPMSolverMultistepScheduler(**config)
    assert ours.steps(25).timesteps == tuple(theirs.timesteps.tolist())
    assert math.isfinite(float(our_run(ours, ours.steps(25)).sum()))


def run_without_a_beginning(theirs: Any) -> None:
    x = randn(0)
    for t in theirs.timesteps:
        x = theirs.step(model(x), t, x).prev_sample
