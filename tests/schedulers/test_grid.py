"""Every scheduler over a generated grid of its options, against diffusers 0.42.1, and what holds for each of them.

For each class, combinations are drawn from the product of its options by a fixed seed. Timesteps and sigmas are equal;
trajectories agree within 1e-5 of the largest value, with the same noise where they draw some.

The reference computes its coefficients in float32, and loses digits in differences of logarithms; so a run without
noise (and SA-Solver's with it) is compared in float64 on both sides, from the same sigmas. Our usual float32 is then
within 1e-4. Where a run of diffusion starts with less than 1 % of signal, the first estimate is divided by it, and
float32's bound grows with noise to signal above 100.
"""

import inspect
import sys
import warnings
from functools import partial
from importlib import import_module
from math import isfinite
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from sfumato.components.schedulers import History, Schedule, Scheduler
from sfumato.registry import schedulers

from .grid import ARGUMENTS, COUNTS, GRID, SD, SHAPE, TOKENS, Config, label, reference

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # in the reference
    pytest.mark.filterwarnings("ignore:__array_wrap__ must:DeprecationWarning"),
]

BROWNIAN = {
    "DPMSolverSDEScheduler": "diffusers.schedulers.scheduling_dpmsolver_sde",
    "CosineDPMSolverMultistepScheduler": "diffusers.schedulers.scheduling_cosine_dpmsolver_multistep",
}
"""Those that need torchsde, only to draw noise, which they are given here."""


def published(name: str) -> Any:  # Any: a class of the reference
    if name not in BROWNIAN:
        return getattr(reference, name)
    with patch.dict(sys.modules, {"torchsde": ModuleType("torchsde")}):
        return getattr(import_module(BROWNIAN[name]), name)


def pair(name: str, config: Config) -> tuple[Scheduler, Any, Config]:
    """Ours, the reference, and what the reference takes as arguments of its `step`."""
    config = {**SD, **config} if hasattr(schedulers[name], "beta_start") else dict(config)
    if curve := config.pop("curve", None):
        config[curve] = True
    takes = inspect.signature(published(name).step).parameters
    arguments = {key: config[key] for key in ARGUMENTS if key in config and key in takes}
    keys = {key: value for key, value in config.items() if key not in arguments}
    if (tau := keys.pop("tau", None)) is not None:  # a function there
        keys["tau_func"] = partial(tau_between, tau)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schedulers[name].from_config(config), made(published(name), keys), arguments


def made(kind: Any, keys: Config) -> Any:
    """One of the reference. Some plan a thousand steps when they are made, for seconds, and plan anew when called."""
    planned = kind.set_timesteps

    def few(self: Any, n: int, *more: Any, **named: Any) -> None:
        planned(self, min(n, 5), *more, **named)

    with patch.object(kind, "set_timesteps", few):
        return kind.from_config(keys)


def tau_between(tau: float, t: Tensor) -> Tensor:
    return torch.where((t >= 200) & (t <= 800), torch.tensor(tau, dtype=torch.float64), 0.0)


def drawn_in_float32(shape: torch.Size, generator: torch.Generator, device: object, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def model(x: Tensor, t: float) -> Tensor:
    return torch.tanh(0.6 * x) * 0.8 + 0.05 * torch.sin(torch.tensor(t / 100))


def planned(ours: Scheduler, theirs: Any, n: int) -> Schedule:
    """Both plans are made; ours is given back."""
    if getattr(ours, "use_dynamic_shifting", False):
        theirs.set_timesteps(n, mu=0.5 + 0.65 * (TOKENS - 256) / 3840)
        return ours.steps(n, image_tokens=TOKENS)
    theirs.set_timesteps(n)
    return ours.steps(n)


class Drawn:
    """Noise in the place of a Brownian tree between two levels."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape, self.generator = shape, torch.Generator().manual_seed(5)

    def __call__(self, start: Tensor, end: Tensor) -> Tensor:
        return torch.randn(self.shape, generator=self.generator)


def reference_run(theirs: Any, x: Tensor, arguments: Config, doubled: bool) -> Tensor:
    takes = inspect.signature(theirs.step).parameters
    if "generator" in takes:
        arguments = {**arguments, "generator": torch.Generator().manual_seed(5)}
    if doubled:
        x = x.double()
        for key in ("sigmas", "sigmas_interpol"):
            if isinstance(held := getattr(theirs, key, None), Tensor):
                setattr(theirs, key, held.double())
    if hasattr(theirs, "set_begin_index"):  # as its pipelines do: two equal timesteps would start it at the second
        theirs.set_begin_index(0)
    if hasattr(theirs, "noise_sampler"):  # a Brownian tree there: it gets ours, unit normal in each step
        theirs.noise_sampler = Drawn(x.shape)
    for t in theirs.timesteps:
        seen = theirs.scale_model_input(x, t) if hasattr(theirs, "scale_model_input") else x
        x = theirs.step(model(seen, float(t)), t, x, **arguments).prev_sample
    return x


def our_run(scheduler: Scheduler, schedule: Schedule, x: Tensor, history: History = ()) -> tuple[Tensor, History]:
    generator = torch.Generator().manual_seed(5)
    for step in schedule:
        noise = torch.randn(x.shape, generator=generator) if step.noisy else None
        x, history = scheduler.advance(x, model(x * step.scale_in, step.timestep), step, history, noise)
    return x, history


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize(("name", "config"), GRID, ids=label)
def test_a_run_is_the_reference_s_run(name: str, config: Config, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, arguments = pair(name, config)
    schedule = planned(ours, theirs, n)
    same_plan(name, config, schedule, theirs)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * schedule.noise_scale
    draws = any(step.noisy for step in schedule)
    doubled = not draws or name == "SASolverScheduler"  # whose polynomials of fourth order lose most digits
    if draws and doubled:
        monkeypatch.setattr("diffusers.schedulers.scheduling_sasolver.randn_tensor", drawn_in_float32)
    expected = reference_run(theirs, x, arguments, doubled)
    assert torch.isfinite(expected).all()
    ratio = schedule.levels[0].ratio
    divides = ours.process != "flow" and isfinite(ratio)  # without any signal, nothing is divided by it
    room = max(1, ratio / 100) if divides else 1

    def off(found: Tensor) -> float:
        return float((found - expected).abs().max() / expected.abs().max())

    found, _ = our_run(ours, schedule, x)
    assert found.dtype == torch.float32
    assert off(found) < (1e-4 if doubled else 1e-5) * room
    if doubled:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        found, _ = our_run(ours, schedule, x.double())
        assert off(found) < 1e-5 * room  # for DPM-Solver's sample is float32 there, whatever comes


def same_plan(name: str, config: Config, schedule: Schedule, theirs: Any) -> None:
    clock = torch.tensor(schedule.timesteps, dtype=torch.float64)
    whole = theirs.timesteps.dtype == torch.int64
    torch.testing.assert_close(clock, theirs.timesteps.double(), rtol=0 if whole else 1e-6, atol=0 if whole else 1e-3)
    assert (schedule.device_timesteps.dtype == torch.int64) == whole
    if hasattr(theirs, "sigmas"):
        sigmas, published = torch.tensor(schedule.sigmas), theirs.sigmas.float()
        if name == "DPMSolverSDEScheduler":  # ours have the middles too, where the sample is
            sigmas, published = sigmas[::2], torch.cat([published[:1], published[1:-1:2]])
        if name.startswith("KDPM2"):  # ours have the middles too, where the sample is
            middles = theirs.sigmas_interpol["Ancestral" not in name :: 2][: len(clock) // 2]
            torch.testing.assert_close(sigmas[1:-1:2], middles, rtol=1e-3, atol=1e-6)
            sigmas, published = sigmas[::2], torch.cat([published[:1], published[1:-3:2]])
        torch.testing.assert_close(sigmas, published, rtol=2e-6, atol=1e-7)
    assert schedule.noise_scale == pytest.approx(float(getattr(theirs, "init_noise_sigma", 1.0)), rel=1e-6)
