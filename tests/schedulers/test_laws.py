"""What holds for every scheduler, whatever its numbers."""

import math
import pickle
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.components.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    HeunDiscreteScheduler,
    History,
    PNDMScheduler,
    RePaintScheduler,
    SASolverScheduler,
    Schedule,
    Scheduler,
    ScoreSdeVeScheduler,
    Step,
    UnCLIPScheduler,
    UniPCMultistepScheduler,
)
from sfumato.graph.errors import ConfigError
from sfumato.registry import schedulers

NAMES = ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
SPACINGS = ("leading", "trailing", "linspace")
SHAPE = (2, 3, 4, 4)

betas = st.fixed_dictionaries(
    {
        "beta_schedule": st.sampled_from(["linear", "scaled_linear"]),
        "beta_start": st.floats(0.0001, 0.001),
        "beta_end": st.floats(0.01, 0.02),
        "timestep_spacing": st.sampled_from(SPACINGS),
        "prediction_type": st.sampled_from(["epsilon", "sample", "v_prediction"]),
        "steps_offset": st.sampled_from([0, 1]),
    }
)


def made(name: str, config: dict[str, Any]) -> Scheduler:
    unclipped = {"clip_sample": False} if name.startswith("DD") else {}
    return schedulers[name](**config, **unclipped)


def randn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def exact(kind: str, x0: Tensor, noise: Tensor, step: Step) -> Tensor:
    """What a model that knows x0 and the noise predicts."""
    alpha, sigma = step.level
    r = math.hypot(alpha, sigma)
    return {"epsilon": noise, "sample": x0, "v_prediction": (alpha * noise - sigma * x0) / r}[kind]


@settings(max_examples=60)
@given(st.sampled_from(NAMES), betas, st.integers(1, 60), st.integers(0, 59), st.integers(0, 9))
def test_an_exact_prediction_gives_the_clean_sample_back(
    name: str, config: dict[str, Any], n: int, k: int, seed: int
) -> None:
    """Within float32's rounding of the noise beside the signal: 1e-6 of sigma / alpha."""
    scheduler = made(name, config)
    step = scheduler.steps(n)[k % n]
    x0, noise = randn(seed), randn(seed + 100)
    sample = scheduler.add_noise(x0, noise, step)
    found = scheduler.denoised(sample, exact(config["prediction_type"], x0, noise, step), step)
    torch.testing.assert_close(found, x0, rtol=1e-5, atol=1e-5 + 1e-6 * step.sigma)


@settings(max_examples=40)
@given(st.sampled_from(["DDIMScheduler", "EulerDiscreteScheduler"]), betas, st.integers(1, 40), st.integers(0, 9))
def test_a_denoiser_of_one_point_leads_to_that_point(name: str, config: dict[str, Any], n: int, seed: int) -> None:
    """Within 1e-5 of the point and 1e-6 of the first sigma, for any number of steps.

    DDIM is given its timesteps, so that each step leads to the next one's level; the published stride does so only for
    "leading" and numbers of steps that divide the timesteps.
    """
    scheduler = made(name, config)
    schedule = scheduler.steps(n)
    if name == "DDIMScheduler":
        schedule = scheduler.steps(n, timesteps=schedule.timesteps)
    point, sample = randn(seed), randn(seed + 1) * schedule.noise_scale
    for step in schedule:
        alpha, sigma = step.level
        guess = exact(config["prediction_type"], point, (sample - alpha * point) / sigma, step)
        sample, _ = scheduler.advance(sample, guess, step)
    torch.testing.assert_close(sample, point, rtol=1e-5, atol=1e-5 + 1e-6 * schedule.sigmas[0])


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(0, 31), st.integers(0, 31), st.integers(0, 31))
def test_slices_of_slices_keep_their_place(n: int, a: int, b: int, c: int) -> None:
    schedule = EulerDiscreteScheduler().steps(n)
    assert schedule[a:][b:] == schedule[a + b :]
    assert schedule[a:][:c] == schedule[a : a + c]
    assert schedule[:] == schedule
    assert len(schedule[a:b]) == len(range(n)[a:b])
    assert [step.index for step in schedule[a:b]] == list(range(n)[a:b])
    assert [step.sigma for step in schedule[a:]] == list(schedule.sigmas[a:-1])
    assert all(
        part.t.data_ptr() == whole.t.data_ptr() for part, whole in zip(schedule[a:], list(schedule)[a:], strict=True)
    )


OWN = Scheduler.__module__.rpartition(".")[0]


@pytest.mark.parametrize("name", list(schedulers))
def test_a_scheduler_is_composed_not_inherited(name: str) -> None:
    """At most one family between `Scheduler` and a published class, and no concrete method is overridden."""

    def depth(cls: type) -> int:
        return max((1 + depth(base) for base in cls.__bases__ if base.__module__.startswith(OWN)), default=1)

    def concrete(cls: type) -> set[str]:
        methods = {key for key, value in vars(cls).items() if callable(value) or isinstance(value, property)}
        made_by_dataclass = {"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__"}
        return methods - made_by_dataclass - getattr(cls, "__abstractmethods__", frozenset())

    cls = schedulers[name]
    assert depth(cls) <= 3
    lineage = [base for base in cls.__mro__ if base.__module__.startswith(OWN)]
    for place, lower in enumerate(lineage):
        for higher in lineage[place + 1 :]:
            assert not concrete(lower) & concrete(higher), (lower, higher)


@pytest.mark.parametrize("name", list(schedulers))
def test_schedules_and_schedulers_are_values(name: str) -> None:
    scheduler = schedulers[name]()
    assert scheduler == schedulers[name]()
    assert hash(scheduler) == hash(schedulers[name]())
    assert pickle.loads(pickle.dumps(scheduler)) == scheduler
    schedule = scheduler.steps(10)[3:]
    assert schedule == scheduler.steps(10)[3:]
    assert hash(schedule) == hash(scheduler.steps(10)[3:])
    assert schedule != scheduler.steps(10)
    again = pickle.loads(pickle.dumps(schedule[1]))
    assert again == schedule[1]
    assert again.t == schedule[1].t
    with pytest.raises(AttributeError):
        scheduler.num_train_timesteps = 5


def test_a_step_knows_its_place_in_the_schedule() -> None:
    schedule = DDIMScheduler(eta=0.5).steps(4)
    assert [step.timestep for step in schedule] == [750, 500, 250, 0]
    assert [step.fraction for step in schedule] == [0, 0.25, 0.5, 0.75]
    assert [step.first for step in schedule] == [True, False, False, False]
    assert [step.last for step in schedule] == [False, False, False, True]
    assert all(step.noisy for step in schedule)
    tail = schedule[2:]
    assert tail[0].first
    assert tail[-1].last
    assert not schedule[:2][-1].last  # the sample is not finished there: a refiner goes on
    assert tail[0].fraction == 0.5
    assert tail[0].t.dtype == torch.int64
    assert EulerDiscreteScheduler().steps(4)[0].t.dtype == torch.float32


def test_two_steps_of_one_whole_step_share_its_fraction() -> None:
    heun = Schedule(sigmas=(9, 4, 4, 1, 1, 0), timesteps=(900, 400, 400, 100, 100), places=(0, 1, 1, 2, 2))
    assert [step.fraction for step in heun] == [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3]


def test_a_schedule_moves_to_a_device_as_one_tensor_that_steps_look_into() -> None:
    schedule = EulerDiscreteScheduler().steps(5)
    assert schedule.to("cpu") is schedule
    there = schedule.to("meta")[2:]
    assert there[0].t.device.type == "meta"
    assert there == schedule[2:]
    with torch.inference_mode():
        assert not schedule[0].t.is_inference()
        assert not EulerDiscreteScheduler().steps(2)[0].t.is_inference()


class Syncs(TorchDispatchMode):
    """Counts what would make the host wait for the device, and numbers and tensors that would be copied to it."""

    COUNTED = ("_local_scalar_dense", "is_nonzero", "lift_fresh", "_to_copy")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # Any: torch gives operators and their arguments untyped
        self.count += func._overloadpacket.__name__ in self.COUNTED
        return func(*args, **(kwargs or {}))


OF_INTEREST = [
    DDIMScheduler(eta=1.0, thresholding=True, use_clipped_model_output=True),
    DDIMScheduler(prediction_type="v_prediction"),
    DDPMScheduler(variance_type="learned_range"),
    EulerDiscreteScheduler(s_churn=5.0),
    EulerDiscreteScheduler(prediction_type="v_prediction", use_karras_sigmas=True),
    DPMSolverMultistepScheduler(solver_order=3),
    DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", thresholding=True),
    DPMSolverMultistepScheduler(algorithm_type="dpmsolver", final_sigmas_type="sigma_min", variance_type="learned"),
    DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    DPMSolverMultistepInverseScheduler(solver_order=3),
    SASolverScheduler(predictor_order=3, corrector_order=4),
    UniPCMultistepScheduler(solver_order=3, disable_corrector=(1,)),
    DEISMultistepScheduler(solver_order=3, use_karras_sigmas=True),
    HeunDiscreteScheduler(clip_sample=True),
    PNDMScheduler(skip_prk_steps=True),
    FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True),
    FlowMatchHeunDiscreteScheduler(s_churn=3.0),
    FlowMatchLCMScheduler(use_karras_sigmas=True),
    DPMSolverSinglestepScheduler(solver_order=3),
    EDMEulerScheduler(s_churn=4.0),
    EDMDPMSolverMultistepScheduler(solver_order=3, thresholding=True),
    RePaintScheduler(jump_length=2, jump_n_sample=3, eta=0.5),
    UnCLIPScheduler(variance_type="learned_range"),
    ScoreSdeVeScheduler(correct_steps=2),
]
ALL_KINDS = [*OF_INTEREST, *(schedulers[name]() for name in schedulers)]


def advanced(scheduler: Scheduler, sample: Tensor, step: Step, history: History = ()) -> tuple[Tensor, History]:
    prediction = torch.tanh(sample * step.scale_in)
    if (getattr(scheduler, "variance_type", "") or "").startswith("learned"):
        prediction = torch.cat([prediction, prediction], dim=1)
    noise = randn(step.index) if step.noisy else None
    return scheduler.advance(sample, prediction, step, history, noise)


def go(scheduler: Scheduler, schedule: Schedule, sample: Tensor, history: History = ()) -> tuple[Tensor, History]:
    for step in schedule:
        sample, history = advanced(scheduler, sample, step, history)
        assert all(part.dtype == torch.float32 for part in history)
    return sample, history


@pytest.mark.parametrize("scheduler", ALL_KINDS, ids=lambda s: type(s).__name__)
def test_the_host_never_waits(scheduler: Scheduler) -> None:
    schedule, sample, history = scheduler.steps(6), randn(0), ()
    with Syncs() as syncs:
        for step in schedule:
            sample, history = advanced(scheduler, sample, step, history)
            scheduler.add_noise(sample, sample, step)
            _ = step.t, step.fraction
    assert syncs.count == 0


@pytest.mark.parametrize("scheduler", ALL_KINDS, ids=lambda s: type(s).__name__)
def test_a_run_resumed_at_any_step_is_the_same_bit_by_bit(scheduler: Scheduler) -> None:
    schedule = scheduler.steps(8)
    whole, _ = go(scheduler, schedule, randn(0))
    for k in range(1, len(schedule)):
        half, rest = pickle.loads(pickle.dumps((go(scheduler, schedule[:k], randn(0)), schedule[k:])))
        assert torch.equal(go(scheduler, rest, *half)[0], whole)


@pytest.mark.parametrize("scheduler", ALL_KINDS, ids=lambda s: type(s).__name__)
def test_a_run_can_start_at_any_whole_step_without_a_history(scheduler: Scheduler) -> None:
    schedule = scheduler.steps(8)
    for k in range(schedule.places[-1] + 1):
        out, _ = go(scheduler, schedule[schedule.places.index(k) :], randn(k))
        assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    "name",
    [
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "PNDMScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ],
)
def test_a_run_that_starts_inside_a_step_is_refused(name: str) -> None:
    scheduler = schedulers[name]()
    with pytest.raises(ConfigError, match=r"Step 1 is inside one.*schedule\.places\.index"):
        go(scheduler, scheduler.steps(6)[1:], randn(0))


@pytest.mark.parametrize("scheduler", ALL_KINDS, ids=lambda s: type(s).__name__)
def test_half_precision_in_is_float32_inside_and_out(scheduler: Scheduler) -> None:
    schedule = scheduler.steps(4)
    step = schedule[schedule.places.index(1)]
    sample = randn(0).bfloat16()
    out, _ = advanced(scheduler, sample, step)
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("scheduler", ALL_KINDS, ids=lambda s: type(s).__name__)
def test_four_threads_share_one_scheduler(scheduler: Scheduler) -> None:
    def run(n: int) -> Tensor:
        return go(scheduler, scheduler.steps(n), randn(n))[0]

    counts = (5, 8, 13, 21)
    alone = {n: run(n) for n in counts}
    together: dict[int, list[Tensor]] = {n: [] for n in counts}

    def work(n: int) -> None:
        for _ in range(5):
            together[n].append(run(n))

    threads = [threading.Thread(target=work, args=(n,)) for n in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(results) == 5 for results in together.values())
    assert all(torch.equal(result, alone[n]) for n in counts for result in together[n])


def test_replacing_a_key_gives_another_scheduler() -> None:
    plain = EulerDiscreteScheduler()
    karras = replace(plain, use_karras_sigmas=True)
    assert not plain.use_karras_sigmas
    assert karras.steps(5).sigmas != plain.steps(5).sigmas
    assert replace(karras, use_karras_sigmas=False) == plain
