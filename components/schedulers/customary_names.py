"""The customary names of samplers (A1111, ComfyUI, k-diffusion): which class and which config keys each means.

A name is a sampler, with or without a curve of noise levels at its end: "DPM++ 2M Karras" is "dpmpp_2m" and "karras".
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from ...graph.errors import ConfigError
from ...registry import UnknownName, closest, schedulers
from . import config as _config
from .keys import SigmaCurve

Keys = Mapping[str, Any]  # Any: config values


class Named(NamedTuple):
    """A scheduler's class, and the keys that a name sets; all others are the checkpoint's."""

    cls: Any  # Any: a subclass of Scheduler, which imports this
    keys: dict[str, Any]


_2M: Keys = {"algorithm_type": "dpmsolver++", "solver_order": 2}
_SDE: Keys = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}

SAMPLERS: dict[str, tuple[str, Keys]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", _2M),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", _SDE),
    "dpmpp_2m_sde_heun": ("DPMSolverMultistepScheduler", {**_SDE, "solver_type": "heun"}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {**_2M, "solver_order": 3}),
    "dpmpp_3m_sde": ("DPMSolverMultistepScheduler", {**_SDE, "solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", _2M),
    "edm_euler": ("EDMEulerScheduler", {}),
    "edm_dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "edm_dpmpp_2m_sde": ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "edm_dpmpp_3m": ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 3}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow_euler_ancestral": ("LTXEulerAncestralRFScheduler", {}),
    "flow_heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "flow_lcm": ("FlowMatchLCMScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": False}),
    "tcd": ("TCDScheduler", {}),
    "uni_pc": ("UniPCMultistepScheduler", {"solver_type": "bh1"}),
    "uni_pc_bh2": ("UniPCMultistepScheduler", {"solver_type": "bh2"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
_SPELLINGS = {
    "euler_a": "euler_ancestral",
    "flow_euler_a": "flow_euler_ancestral",
    "dpm2_a": "dpm2_ancestral",
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2_ancestral",
    "dpm_2_a": "dpm2_ancestral",
    "k_euler": "euler",
    "k_euler_a": "euler_ancestral",
    "k_lms": "lms",
    "k_heun": "heun",
    "k_dpm_2": "dpm2",
    "k_dpm_2_a": "dpm2_ancestral",
}
_PUBLISHED_CURVES = ("karras", "exponential", "beta")
"""Customary curves for which some published classes have a key, which files of them have too."""
_SPACINGS: dict[str, Keys] = {
    "normal": {"timestep_spacing": "linspace"},
    "simple": {"timestep_spacing": "trailing"},
    "sgm_uniform": {"timestep_spacing": "trailing"},
    "turbo": {"timestep_spacing": "trailing"},
    "ddim_uniform": {"timestep_spacing": "leading", "steps_offset": 1},
}
"""The config keys of these curves for samplers that visit whole timesteps, which have no other levels."""
CURVES: tuple[str, ...] = (*get_args(SigmaCurve), "lu")
_KINDS: dict[str, dict[str, str]] = {
    "flow": {
        "euler": "flow_euler",
        "euler_ancestral": "flow_euler_ancestral",
        "heun": "flow_heun",
        "lcm": "flow_lcm",
    },
    "EDM": {name: f"edm_{name}" for name in ("euler", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m")},
}
"""Samplers whose kind for another process has the same customary name."""


def normalised(name: str) -> str:
    """The k-diffusion spelling.

    >>> normalised("DPM++ 2M Karras"), normalised("Euler a")
    ('dpmpp_2m_karras', 'euler_a')
    """
    words = name.strip().lower().replace("++", "pp").replace("-", " ").replace("_", " ").split()
    return "_".join(words)


def find(name: str, process: str = "diffusion") -> Named:
    """The class and keys of a published or customary name. UnknownName if there is none.

    process: of the model; with "flow", "euler" means its flow-matching kind, with "EDM" the one for EDM.
    """
    for published in (name, f"{name}Scheduler"):
        if published not in schedulers.aliases and (cls := schedulers.find(published)) is not None:
            return Named(cls, {})
    spelled = normalised(name)
    for curve in (None, *CURVES):
        sampler = spelled.removesuffix(f"_{curve}") if curve else spelled
        if curve and sampler == spelled:
            continue
        sampler = _SPELLINGS.get(sampler, sampler)
        if sampler not in SAMPLERS:
            continue
        published, keys = SAMPLERS[_KINDS.get(process, {}).get(sampler, sampler)]
        cls = schedulers[published]
        return Named(cls, {**keys, **_curve_keys(cls, name, curve, process)} if curve else dict(keys))
    if (cls := schedulers.find(spelled)) is not None:  # a plugin's alias
        return Named(cls, {})
    known = [*schedulers, *SAMPLERS, *_SPELLINGS, *(f"{sampler}_{curve}" for sampler in SAMPLERS for curve in CURVES)]
    guess = closest(name, known, 1) or closest(spelled, known, 1)
    raise UnknownName(
        f"No scheduler is called {name!r}. {f'Did you mean {guess[0]!r}? ' if guess else ''}There are the published "
        f"names, such as 'EulerDiscreteScheduler', and customary ones: {', '.join(SAMPLERS)}. These may end with a "
        f"curve: {', '.join(f'_{curve}' for curve in CURVES)}."
    )


def _curve_keys(cls: type, name: str, curve: str, process: str) -> dict[str, Any]:  # Any: config values
    """The keys of a curve for this class. ConfigError if it cannot follow the curve."""
    own = _config.keys(cls)
    keys: dict[str, Any] = {
        f"use_{kind}_sigmas": kind == curve and process == "diffusion" for kind in _PUBLISHED_CURVES
    }
    if curve in _config.choices(own.get("sigma_schedule")):  # EDM's own key
        return {"sigma_schedule": curve}
    if curve == "lu":
        keys |= {"sigma_curve": None, "use_lu_lambdas": True}
        needed = "use_lu_lambdas"
    elif "sigma_curve" not in own and curve in _SPACINGS:
        keys |= _SPACINGS[curve]
        needed = "timestep_spacing"
    else:
        keys |= {"sigma_curve": curve}
        needed = "sigma_curve"
    if needed not in own:
        raise ConfigError(
            f"{name!r} sets {needed}, which {cls.__name__} does not have. Leave out {curve!r}, or use a sampler that "
            f"has it, such as 'dpmpp_2m_{curve}'."
        )
    return {key: value for key, value in keys.items() if key in own}
