"""The customary names of samplers (A1111, ComfyUI, k-diffusion): which class and which config keys each means.

A name is a sampler, with or without a curve of noise levels at its end: "DPM++ 2M Karras" is "dpmpp_2m" and "karras".
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...graph.errors import ConfigError
from ...registry import UnknownName, closest, schedulers
from . import config as _config

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
_NO_CURVE = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
CURVES: dict[str, Keys] = {
    "karras": {**_NO_CURVE, "use_karras_sigmas": True},
    "exponential": {**_NO_CURVE, "use_exponential_sigmas": True},
    "beta": {**_NO_CURVE, "use_beta_sigmas": True},
    "normal": _NO_CURVE,
    "sgm_uniform": {**_NO_CURVE, "timestep_spacing": "trailing"},
    "simple": {**_NO_CURVE, "timestep_spacing": "trailing"},
    "lu": {**_NO_CURVE, "use_lu_lambdas": True},
}
_FLOW_KINDS = {"euler": "flow_euler", "euler_ancestral": "flow_euler_ancestral", "heun": "flow_heun", "lcm": "flow_lcm"}
"""Samplers whose flow-matching kind has the same customary name."""


def normalised(name: str) -> str:
    """The k-diffusion spelling.

    >>> normalised("DPM++ 2M Karras"), normalised("Euler a")
    ('dpmpp_2m_karras', 'euler_a')
    """
    words = name.strip().lower().replace("++", "pp").replace("-", " ").replace("_", " ").split()
    return "_".join(words)


def find(name: str, process: str = "diffusion") -> Named:
    """The class and keys of a published or customary name. UnknownName if there is none.

    process: of the model; with "flow", "euler" means its flow-matching kind.
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
        published, keys = SAMPLERS[_FLOW_KINDS.get(sampler, sampler) if process == "flow" else sampler]
        cls = schedulers[published]
        return Named(cls, {**keys, **_curve_keys(cls, name, curve)})
    if (cls := schedulers.find(spelled)) is not None:  # a plugin's alias
        return Named(cls, {})
    known = [*schedulers, *SAMPLERS, *_SPELLINGS, *(f"{sampler}_{curve}" for sampler in SAMPLERS for curve in CURVES)]
    guess = closest(name, known, 1) or closest(spelled, known, 1)
    raise UnknownName(
        f"No scheduler is called {name!r}. {f'Did you mean {guess[0]!r}? ' if guess else ''}There are the published "
        f"names, such as 'EulerDiscreteScheduler', and customary ones: {', '.join(SAMPLERS)}. These may end with a "
        f"curve: {', '.join(f'_{curve}' for curve in CURVES)}."
    )


def _curve_keys(cls: type, name: str, curve: str | None) -> dict[str, Any]:  # Any: config values
    """The keys of a curve that this class has. ConfigError if it lacks the one that sets the curve."""
    keys = dict(CURVES[curve]) if curve else {}
    own = _config.keys(cls)
    missing = next((key for key, value in keys.items() if key not in own and value), None)
    if missing:
        raise ConfigError(
            f"{name!r} sets {missing}, which {cls.__name__} does not have. Leave out {curve!r}, or use a sampler that "
            f"has it, such as 'dpmpp_2m_{curve}'."
        )
    return {key: value for key, value in keys.items() if key in own}
