"""Every scheduler over a generated grid of its options, against diffusers 0.42.1, and what holds for each of them.

For each class, combinations are drawn from the product of its options by a fixed seed. Timesteps and sigmas are equal;
trajectories agree within 1e-5 of the largest value, with the same noise where they draw some.

The reference computes its coefficients in float32, and loses digits in differences of logarithms; so a run without
noise (and SA-Solver's with it) is compared in float64 on both sides, from the same sigmas. Our usual float32 is then
within 1e-4. Where a run of diffusion starts with less than 1 % of signal, the first estimate is divided by it, and
float32's bound grows with noise to signal above 100.
"""

import inspect
import itertools
import random
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from math import isfinite, prod
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from sfumato.components.schedulers import History, Schedule, Scheduler
from sfumato.registry import schedulers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

reference: Any = diffusers  # Any: it types little
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # in the reference
    pytest.mark.filterwarnings("ignore:__array_wrap__ must:DeprecationWarning"),
]

Config = dict[str, Any]
Options = dict[str, Sequence[Any]]
SHAPE = (2, 3, 6, 6)
COUNTS = (5, 10, 25)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ("leading", "trailing", "linspace")
CURVES = (None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
ARGUMENTS = ("eta", "order")
TOKENS = 1024
"""Of a picture, for dynamic shifting."""

LAMBDA: Options = {
    "solver_order": (1, 2, 3),
    "prediction_type": (*PREDICTIONS, "flow_prediction"),
    "curve": (*CURVES, "use_flow_sigmas"),
    "flow_shift": (1.0, 3.0),
    "lower_order_final": (True, False),
    "timestep_spacing": SPACINGS,
    "thresholding": (False, True),
}
TWICE: Options = {
    "curve": CURVES,
    "timestep_spacing": SPACINGS,
    "beta_schedule": ("linear", "scaled_linear"),
    "steps_offset": (0, 1),
}
SHIFTING: Options = {
    "shift": (1.0, 3.0),
    "use_dynamic_shifting": (False, True),
    "curve": CURVES,
    "time_shift_type": ("exponential", "linear"),
    "invert_sigmas": (False, True),
    "shift_terminal": (None, 0.1),
}
DISTILLED: Options = {
    "prediction_type": PREDICTIONS,
    "original_inference_steps": (50, 25),
    "rescale_betas_zero_snr": (False,),
}
EDM: Options = {
    "sigma_schedule": ("karras", "exponential"),
    "prediction_type": ("epsilon", "v_prediction"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "sigma_data": (0.5, 1.0),
}
DDIM: Options = {"prediction_type": PREDICTIONS, "timestep_spacing": SPACINGS, "clip_sample": (False, True)}
OPTIONS: dict[str, Options] = {
    "DPMSolverMultistepScheduler": LAMBDA
    | {
        "curve": (*CURVES, "use_flow_sigmas", "use_lu_lambdas"),
        "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
        "final_sigmas_type": ("zero", "sigma_min"),
        "euler_at_final": (False, True),
        "rescale_betas_zero_snr": (False, True),
        "lambda_min_clipped": (-float("inf"), -3.0),
        "beta_schedule": ("scaled_linear", "linear", "squaredcos_cap_v2"),
    },
    "DPMSolverMultistepInverseScheduler": {
        "curve": (None, "use_karras_sigmas"),  # it drops turns whose timesteps are equal once cut to whole ones
        "solver_order": (1, 2, 3),
        "prediction_type": PREDICTIONS,
        "algorithm_type": ("dpmsolver", "dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
        "timestep_spacing": SPACINGS,
        "lower_order_final": (True, False),
        "euler_at_final": (False, True),
        "lambda_min_clipped": (-float("inf"), -2.0),
        "steps_offset": (0, 1),
        "thresholding": (False, True),
    },
    "UniPCMultistepScheduler": LAMBDA
    | {
        "solver_order": (1, 2, 3, 4),
        "predict_x0": (True, True, False),
        "solver_type": ("bh1", "bh2"),
        "final_sigmas_type": ("zero", "sigma_min"),
        "disable_corrector": ([], [0, 1]),
        "rescale_betas_zero_snr": (False, True),
        "shift_terminal": (None, 0.1),
        "use_dynamic_shifting": (False, True),
    },
    "DEISMultistepScheduler": LAMBDA,
    "SASolverScheduler": {key: value for key, value in LAMBDA.items() if key != "solver_order"}
    | {
        "predictor_order": (1, 2, 3, 4),
        "corrector_order": (1, 2, 3, 4),
        "algorithm_type": ("data_prediction", "data_prediction", "noise_prediction"),
        "lambda_min_clipped": (-float("inf"), -3.0),
        "tau": (1.0, 0.0, 0.6),
    },
    "DPMSolverSinglestepScheduler": {key: value for key, value in LAMBDA.items() if key != "timestep_spacing"}
    | {
        "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
        "final_sigmas_type": ("zero", "sigma_min"),
        "lower_order_final": (True,),
        "thresholding": (False,),
    },
    "DPMSolverSDEScheduler": TWICE | {"prediction_type": ("epsilon", "v_prediction")},
    "DDIMInverseScheduler": {
        "prediction_type": ("epsilon", "v_prediction"),
        "timestep_spacing": ("leading", "trailing"),
        "clip_sample": (False, True),
        "set_alpha_to_one": (False, True),
    },
    "EDMEulerScheduler": EDM,
    "IPNDMScheduler": {"num_train_timesteps": (1000, 100)},
    "CosineDPMSolverMultistepScheduler": EDM
    | {
        "final_sigmas_type": ("zero",),  # a last step of no length may go backwards by a rounding: nan there
        "solver_order": (1, 2),
        "solver_type": ("midpoint", "heun"),
        "euler_at_final": (False, True),
        "lower_order_final": (False, True),
    },
    "EDMDPMSolverMultistepScheduler": EDM
    | {
        "solver_order": (1, 2, 3),
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
    },
    "HeunDiscreteScheduler": TWICE | {"prediction_type": PREDICTIONS, "clip_sample": (False, True)},
    "KDPM2DiscreteScheduler": TWICE | {"prediction_type": ("epsilon", "v_prediction")},
    "KDPM2AncestralDiscreteScheduler": TWICE | {"prediction_type": ("epsilon", "v_prediction")},
    "LMSDiscreteScheduler": TWICE | {"prediction_type": PREDICTIONS, "order": (2, 4)},
    "PNDMScheduler": {
        "prediction_type": ("epsilon", "v_prediction"),
        "timestep_spacing": SPACINGS,
        "skip_prk_steps": (True, False),
        "set_alpha_to_one": (False, True),
        "steps_offset": (0, 1),
    },
    "LCMScheduler": DISTILLED | {"clip_sample": (False, True), "thresholding": (False, True)},
    "TCDScheduler": DISTILLED | {"eta": (0.0, 0.3, 0.5, 1.0)},
    "FlowMatchEulerDiscreteScheduler": SHIFTING | {"stochastic_sampling": (False, True)},
    "FlowMatchLCMScheduler": SHIFTING,
    "FlowMatchHeunDiscreteScheduler": {"shift": (1.0, 3.0, 7.0), "num_train_timesteps": (1000, 200)},
    "FlowMapEulerDiscreteScheduler": {"shift": (1.0, 3.0, 7.0), "num_train_timesteps": (1000, 200)},
    "LTXEulerAncestralRFScheduler": SHIFTING
    | {"invert_sigmas": (False,), "eta": (1.0, 0.5, 0.0), "s_noise": (1.0, 0.9), "shift_terminal": (None,)},
    "CMStochasticIterativeScheduler": {
        "num_train_timesteps": (40, 200),
        "sigma_max": (80.0, 10.0),
        "sigma_data": (0.5, 1.0),
        "s_noise": (1.0, 0.9),
        "rho": (7.0, 3.0),
        "clip_denoised": (True, False),
    },
    "CogVideoXDDIMScheduler": {
        "prediction_type": PREDICTIONS,
        "timestep_spacing": SPACINGS,
        "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
        "set_alpha_to_one": (True, False),
        "snr_shift_scale": (1.0, 3.0),
    },
    "DDIMParallelScheduler": DDIM | {"eta": (0.0, 0.7)},
    "DDPMParallelScheduler": DDIM | {"variance_type": ("fixed_small", "fixed_large")},
}
DRAWN = 11
"""Configs of each class; each is run with 5, 10 and 25 steps."""
ASKED = 5000
"""Combinations that are looked at for them: some classes have half a million, of which most are nobody's."""


def nobody_s_config(name: str, config: Config) -> bool:
    """Combinations that one side refuses or gets wrong. Each has a reason, and most a test in `test_differences`."""
    flow = config.get("curve") == "use_flow_sigmas"
    prediction = config.get("prediction_type")
    noise = (
        config.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver", "noise_prediction")
        or config.get("predict_x0") is False
    )
    zero = config.get("final_sigmas_type") == "zero"
    return (
        (prediction == "flow_prediction") != flow  # they compute what means nothing
        or (noise and prediction == "flow_prediction")  # refused there, though the formula is plain
        or (noise and zero)  # refused by both; there UniPC gives nan
        or (name.startswith("EDMDPM") and not zero and config.get("solver_order") != 1)  # a last step of no length: nan
        or (config.get("solver_order") == 3 and config.get("algorithm_type", "").startswith("sde"))  # wrong there
        or (name.startswith("SASolver") and noise and config["thresholding"])  # there shapes do not fit
        or (zero and config.get("solver_type") == "bh1")  # there 0 times infinity at the end: nan
        or (config.get("shift_terminal") is not None and name.startswith("UniPC") and not flow)
        or (config.get("time_shift_type") == "linear" and not config.get("use_dynamic_shifting"))
        # Backwards, "trailing" and curves end with a turn of no length, at the noisiest level: nan beyond first order.
        or (name.endswith("InverseScheduler") and still_at_the_end(config))
        # There a second difference divides by a last step of no length (or to no noise, infinitely far): nan.
        or (
            config.get("lower_order_final") is False
            and (name.startswith("UniPC") or (name.startswith("DPM") and not zero))
            and config.get("solver_order", 1) > 1
        )
    )


def still_at_the_end(config: Config) -> bool:
    still = config.get("timestep_spacing") == "trailing" or config.get("curve") is not None
    return still and config.get("solver_order", 1) > 1 and not config.get("euler_at_final")


def drawn(name: str) -> list[Config]:
    options = OPTIONS[name]
    size = prod(map(len, options.values()))
    usable = (
        config for k in random.Random(0).sample(range(size), min(size, ASKED))
        if not nobody_s_config(name, config := nth(options, k))
    )  # fmt: skip
    return list(itertools.islice(usable, DRAWN))


def nth(options: Options, k: int) -> Config:
    config: Config = {}
    for key, values in options.items():
        k, place = divmod(k, len(values))
        config[key] = values[place]
    return config


GRID = [(name, config) for name in OPTIONS for config in drawn(name)]


def label(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value).removesuffix("Scheduler")
    return "-".join(f"{v}" for v in value.values())


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
    """One of the reference. Some plan a thousand steps when they are made, for seconds, and plan anew when asked."""
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
    if hasattr(theirs, "noise_sampler"):  # a Brownian tree there: it is given ours, unit normal in each turn
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
        if name == "DPMSolverSDEScheduler":  # ours stand at the middles too, for the sample does
            sigmas, published = sigmas[::2], torch.cat([published[:1], published[1:-1:2]])
        if name.startswith("KDPM2"):  # ours stand at the middles too, for the sample does
            middles = theirs.sigmas_interpol["Ancestral" not in name :: 2][: len(clock) // 2]
            torch.testing.assert_close(sigmas[1:-1:2], middles, rtol=1e-3, atol=1e-6)
            sigmas, published = sigmas[::2], torch.cat([published[:1], published[1:-3:2]])
        torch.testing.assert_close(sigmas, published, rtol=2e-6, atol=1e-7)
    assert schedule.noise_scale == pytest.approx(float(getattr(theirs, "init_noise_sigma", 1.0)), rel=1e-6)
