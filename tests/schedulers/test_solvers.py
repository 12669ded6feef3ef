"""How good a solver is: single points that it recovers, and its order of convergence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.components.schedulers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    LTXEulerAncestralRFScheduler,
    SASolverScheduler,
    Scheduler,
    UniPCMultistepScheduler,
)
from sfumato.registry import schedulers

from .test_laws import made, randn

SOLVERS = {
    "DDIMScheduler": {},
    "DEISMultistepScheduler": {"solver_order": 3},
    "DPMSolverMultistepScheduler": {"solver_order": 3},
    "EulerDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "PNDMScheduler": {"set_alpha_to_one": True},
    "SASolverScheduler": {"tau": 0.0, "predictor_order": 3, "corrector_order": 4},
    "UniPCMultistepScheduler": {"solver_order": 3},
    "FlowMatchEulerDiscreteScheduler": {},
    "FlowMatchHeunDiscreteScheduler": {},
}


@settings(max_examples=60)
@given(st.sampled_from(list(SOLVERS)), st.integers(4, 40), st.integers(0, 9))
def test_every_solver_without_noise_recovers_a_single_point(name: str, n: int, seed: int) -> None:
    """A denoiser that knows one point leads there: within 1e-4, or, where the run ends above no noise, that noise.

    DDIM and PNDM are left out of this bound where n does not divide the timesteps, for their strides miss then.
    """
    scheduler = made(name, SOLVERS[name]) if name.startswith("DD") else schedulers[name](**SOLVERS[name])
    if name in ("DDIMScheduler", "PNDMScheduler"):
        n = {0: 5, 1: 10, 2: 20, 3: 25}[n % 4]
    schedule = scheduler.steps(n)
    point, sample, history = randn(seed), randn(seed + 1) * schedule.noise_scale, ()
    for step in schedule:
        alpha, sigma = step.level
        noise = (sample - alpha * point) / sigma
        sample, history = scheduler.advance(
            sample, noise - point if scheduler.process == "flow" else noise, step, history
        )
    end = schedule.levels[-1]
    room = 1e-4 + 1e-6 * schedule.sigmas[0] + 5 * end.sigma
    assert float((sample - end.alpha * point).abs().max()) < room


ELSEWHERE = {
    "DDIMInverseScheduler": "goes to noise",
    "DPMSolverMultistepInverseScheduler": "goes to noise",
    "IPNDMScheduler": "its published levels do not lie on the circle that its formula goes along",
    "ScoreSdeVpScheduler": "Euler and Maruyama's method is stable in hundreds of steps only",
}


@pytest.mark.parametrize("n", [5, 13, 25])
@pytest.mark.parametrize("name", [name for name in schedulers if name not in ELSEWHERE])
def test_whatever_is_drawn_a_denoiser_of_one_point_leads_there(
    name: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the noise that the run's end leaves. What the model would say is solved for: `denoised` is linear in it.

    Where it clips, it is not, so nothing is clipped here.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    unclipped = {key: False for key in ("clip_sample", "clip_denoised") if hasattr(schedulers[name], key)}
    scheduler = schedulers[name](**unclipped)
    schedule = scheduler.steps(n)
    point, sample, history = randn(0).double(), randn(1).double() * schedule.noise_scale, ()
    for step in schedule:
        without, with_one = (scheduler.denoised(sample, torch.full_like(sample, x), step) for x in (0, 1))
        answer = (point - without) / (with_one - without)
        noise = randn(step.index + 5).double() if step.noisy else None
        sample, history = scheduler.advance(sample, answer, step, history, noise)
    end = schedule.targets[-1]
    assert float((sample - end.alpha * point).abs().max()) < 1e-5 + 5 * end.sigma


def test_euler_and_maruyama_s_method_leads_to_a_point_in_many_steps() -> None:
    scheduler = schedulers["ScoreSdeVpScheduler"]()
    point, sample = randn(0), randn(1)
    for step in scheduler.steps(1000):
        alpha, sigma = step.level
        noise = randn(step.index + 5) if step.noisy else None
        sample, _ = scheduler.advance(sample, (sample - alpha * point) / sigma, step, (), noise)
    assert float((sample - point).abs().max()) < 0.05


ORDERS = [
    (EulerDiscreteScheduler(), 1),
    (DPMSolverMultistepScheduler(solver_order=1), 1),
    (DPMSolverMultistepScheduler(solver_order=2, lower_order_final=False), 2),
    (DPMSolverMultistepScheduler(solver_order=2, solver_type="heun", lower_order_final=False), 2),
    (UniPCMultistepScheduler(solver_order=2, lower_order_final=False), 2),
    (UniPCMultistepScheduler(solver_order=3, lower_order_final=False), 3),
    (SASolverScheduler(tau=0.0, lower_order_final=False), 2),
    (SASolverScheduler(tau=0.0, corrector_order=3, lower_order_final=False), 3),
    (DEISMultistepScheduler(solver_order=2, lower_order_final=False), 2),
    (LMSDiscreteScheduler(), 3),
    (KDPM2DiscreteScheduler(), 2),
    (HeunDiscreteScheduler(), 2),
    (FlowMatchEulerDiscreteScheduler(), 1),
    (FlowMapEulerDiscreteScheduler(), 1),
    (LTXEulerAncestralRFScheduler(eta=0.0), 1),
    (FlowMatchHeunDiscreteScheduler(), 2),
]


@pytest.mark.parametrize(("scheduler", "order"), ORDERS, ids=lambda s: type(s).__name__.removesuffix("Scheduler"))
def test_halving_the_steps_divides_the_error_by_two_to_the_order(
    scheduler: Scheduler, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Gaussian, whose score and flow are known: Karras et al. 2022, appendix. In float64, for its small errors.

    A multistep solver begins with a step of first order, whose error of second order is small where levels are dense.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    spread = 0.5

    def error(n: int) -> float:
        top, low = (0.9, 0.1) if scheduler.process == "flow" else (10.0, 0.1)
        sigmas = [top * (low / top) ** (k / n) for k in range(n + 1)]
        schedule = scheduler.steps(n, sigmas=sigmas)
        if type(scheduler).__name__ in (
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "FlowMatchHeunDiscreteScheduler",
        ):
            schedule = schedule[:-1]  # the last step is Euler's
        start = torch.ones(1, 1, dtype=torch.float64)
        sample, history = start, ()
        for step in schedule:
            alpha, sigma = step.level
            x0 = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * sample
            noise = (sample - alpha * x0) / sigma
            sample, history = scheduler.advance(
                sample, noise - x0 if scheduler.process == "flow" else noise, step, history
            )
        first, last = schedule.levels[0], schedule.levels[schedule.end]
        scale = math.hypot(last.alpha * spread, last.sigma) / math.hypot(first.alpha * spread, first.sigma)
        return abs(float(sample) - scale)

    measured = math.log2(error(40) / error(80))
    assert measured > order - 0.25
    assert measured < order + 1.3
