"""The names that people know samplers by (A1111, ComfyUI, k-diffusion), and what they stand for here.

A name is a sampler and perhaps a curve of its noise levels behind it: "DPM++ 2M Karras" is "dpmpp_2m" and "karras".
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...graph.errors import ConfigError
from ...registry import UnknownName, closest, schedulers
from . import config as _config

Keys = Mapping[str, Any]  # Any: config values


class Named(NamedTuple):
    """A scheduler's class, and the keys that a name says; all others are the checkpoint's."""

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
_NONE = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
CURVES: dict[str, Keys] = {
    "karras": {**_NONE, "use_karras_sigmas": True},
    "exponential": {**_NONE, "use_exponential_sigmas": True},
    "beta": {**_NONE, "use_beta_sigmas": True},
    "normal": _NONE,
    "sgm_uniform": {**_NONE, "timestep_spacing": "trailing"},
    "simple": {**_NONE, "timestep_spacing": "trailing"},
    "lu": {**_NONE, "use_lu_lambdas": True},
}
_IN_FLOW = {"euler": "flow_euler", "euler_ancestral": "flow_euler_ancestral", "heun": "flow_heun", "lcm": "flow_lcm"}
"""Samplers that a flow-matching model's users call by the same name."""


def normalised(name: str) -> str:
    """The k-diffusion spelling.

    >>> normalised("DPM++ 2M Karras"), normalised("Euler a")
    ('dpmpp_2m_karras', 'euler_a')
    """
    words = name.strip().lower().replace("++", "pp").replace("-", " ").replace("_", " ").split()
    return "_".join(words)


def find(name: str, process: str = "diffusion") -> Named:
    """What a published or customary name stands for, or UnknownName.

    process: of the model that it is for; "flow" reads "euler" as its flow-matching kind.
    """
    for published in (name, f"{name}Scheduler"):
        if published not in schedulers.aliases and (cls := schedulers.find(published)) is not None:
            return Named(cls, {})
    plain = normalised(name)
    for curve in (None, *CURVES):
        sampler = plain.removesuffix(f"_{curve}") if curve else plain
        if curve and sampler == plain:
            continue
        sampler = _SPELLINGS.get(sampler, sampler)
        if sampler not in SAMPLERS:
            continue
        published, keys = SAMPLERS[_IN_FLOW.get(sampler, sampler) if process == "flow" else sampler]
        cls = schedulers[published]
        return Named(cls, {**keys, **_on(cls, name, curve)})
    if (cls := schedulers.find(plain)) is not None:  # a plugin's alias
        return Named(cls, {})
    known = [*schedulers, *SAMPLERS, *_SPELLINGS, *(f"{sampler}_{curve}" for sampler in SAMPLERS for curve in CURVES)]
    guess = closest(name, known, 1) or closest(plain, known, 1)
    raise UnknownName(
        f"No scheduler is called {name!r}. {f'Did you mean {guess[0]!r}? ' if guess else ''}There are the published "
        f"names, such as 'EulerDiscreteScheduler', and customary ones: {', '.join(SAMPLERS)}. Behind these may stand a "
        f"curve: {', '.join(f'_{curve}' for curve in CURVES)}."
    )


def _on(cls: type, name: str, curve: str | None) -> dict[str, Any]:  # Any: config values
    """The keys of a curve that this class has; it must have the one that makes the curve."""
    keys = dict(CURVES[curve]) if curve else {}
    mine = _config.keys(cls)
    missing = next((key for key, value in keys.items() if key not in mine and value), None)
    if missing:
        raise ConfigError(
            f"{name!r} asks for {missing}, which {cls.__name__} does not have. Leave out {curve!r}, or choose a "
            f"sampler that has it, such as 'dpmpp_2m_{curve}'."
        )
    return {key: value for key, value in keys.items() if key in mine}
