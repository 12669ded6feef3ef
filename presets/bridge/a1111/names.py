"""The names of samplers and schedules in A1111's web UI and Forge, and what they are here."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ....components.schedulers.customary_names import find
from ....components.schedulers.keys import SigmaCurve
from ....registry import UnknownName


class Sampler(NamedTuple):
    """A sampler: its customary name, and the curve that the schedule "Automatic" means for it."""

    name: str
    automatic: str


SAMPLERS: Mapping[str, Sampler] = {
    "Euler a": Sampler("euler_ancestral", "normal"),
    "Euler": Sampler("euler", "normal"),
    "LMS": Sampler("lms", "normal"),
    "Heun": Sampler("heun", "normal"),
    "DPM2": Sampler("dpm2", "karras"),
    "DPM2 a": Sampler("dpm2_ancestral", "karras"),
    "DPM++ 2M": Sampler("dpmpp_2m", "karras"),
    "DPM++ SDE": Sampler("dpmpp_sde", "karras"),
    "DPM++ 2M SDE": Sampler("dpmpp_2m_sde", "exponential"),
    "DPM++ 2M SDE Heun": Sampler("dpmpp_2m_sde_heun", "exponential"),
    "DPM++ 3M SDE": Sampler("dpmpp_3m_sde", "exponential"),
    "DEIS": Sampler("deis", "karras"),
    "LCM": Sampler("lcm", ""),
    "DDIM": Sampler("ddim", "ddim_uniform"),
    "PLMS": Sampler("plms", "ddim_uniform"),
    "UniPC": Sampler("uni_pc", ""),
    "DDPM": Sampler("ddpm", ""),
    "TCD": Sampler("tcd", ""),
}
"""By the names in `Sampler`. Without a curve, the levels are those of the checkpoint."""

NEAREST: Mapping[str, str] = {
    "DPM++ 2S a": "DPM2 a",
    "DPM fast": "DPM++ 2M",
    "DPM adaptive": "DPM++ 2M",
    "Restart": "Heun",
    "HeunPP2": "Heun",
    "IPNDM": "LMS",
    "IPNDM_V": "LMS",
    "DDIM CFG++": "DDIM",
    "Euler CFG++": "Euler",
    "Euler a CFG++": "Euler a",
    "DPM++ 2M CFG++": "DPM++ 2M",
    "DPM++ 2S a CFG++": "DPM2 a",
    "Euler Dy": "Euler",
    "Euler SMEA Dy": "Euler",
    "Euler Negative": "Euler",
    "Euler Negative Dy": "Euler",
    "Euler Max": "Euler",
    "Kohaku LoNyu Yog": "Euler a",
    "Res Multistep": "DPM++ 2M",
    "ER SDE": "DPM++ 2M SDE",
}
"""Samplers that are not here, and those that are used in their place."""

SCHEDULES: Mapping[str, str] = {
    "Uniform": "normal",
    "Karras": "karras",
    "Exponential": "exponential",
    "Polyexponential": "exponential",  # with rho 1, as the UI has it
    "SGM Uniform": "sgm_uniform",
    "KL Optimal": "kl_optimal",
    "Simple": "simple",
    "Normal": "normal",
    "DDIM": "ddim_uniform",
    "DDIM Uniform": "ddim_uniform",
    "Beta": "beta",
    "Linear Quadratic": "linear_quadratic",
    "Turbo": "turbo",
    "Align Your Steps": "align_your_steps",
}
"""By the names in `Schedule type`."""

NEAREST_SCHEDULE: Mapping[str, str] = {
    "Align Your Steps GITS": "Align Your Steps",
    "Align Your Steps 11": "Align Your Steps",
    "Align Your Steps 32": "Align Your Steps",
    "Bong Tangent": "Beta",
}
"""Schedules that are not here, and those that are used in their place."""

AUTOMATIC = "Automatic"


def split(name: str) -> tuple[str, str]:
    """The sampler and the schedule of a name of an old version, which has both.

    >>> split("DPM++ 2M SDE Karras"), split("Euler a")
    (('DPM++ 2M SDE', 'Karras'), ('Euler a', ''))
    """
    for schedule in sorted(SCHEDULES, key=len, reverse=True):
        plain = name.removesuffix(f" {schedule}")
        if plain != name and (plain in SAMPLERS or plain in NEAREST):
            return plain, schedule
    return name, ""


def names_of(scheduler: Any) -> tuple[str, str]:  # a Scheduler
    """The sampler and schedule of a scheduler; its class and "" where the UI has none."""
    config: Mapping[str, Any] = scheduler.to_config()
    fitting: dict[str, int] = {}
    for label, sampler in SAMPLERS.items():
        for process in ("diffusion", "flow"):
            try:
                named = find(sampler.name, process)
            except UnknownName:
                continue
            if named.cls is type(scheduler) and all(config.get(key) == value for key, value in named.keys.items()):
                fitting[label] = len(named.keys)
    if not fitting:
        return type(scheduler).__name__, ""
    return max(fitting, key=lambda label: fitting[label]), _schedule(config)


def _schedule(config: Mapping[str, Any]) -> str:
    curve: SigmaCurve | str | None = config.get("sigma_curve")
    for name in ("karras", "exponential", "beta"):
        if config.get(f"use_{name}_sigmas"):
            curve = name
    curve = "align_your_steps" if curve == "align_your_steps_xl" else curve
    return next((label for label, own in SCHEDULES.items() if own == curve), "")
