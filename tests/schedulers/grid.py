"""The cases of the grid: what options each scheduler has, and which combinations of them are drawn."""

import itertools
import random
import warnings
from collections.abc import Sequence
from math import prod
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

reference: Any = diffusers  # Any: it types little
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
        "curve": (None, "use_karras_sigmas"),  # it drops steps whose timesteps are equal once cut to whole ones
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
LOOKED_AT = 5000
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
        # Backwards, "trailing" and curves end with a step of no length, at the noisiest level: nan beyond first order.
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
        config for k in random.Random(0).sample(range(size), min(size, LOOKED_AT))
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
