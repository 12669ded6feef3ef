"""ComfyUI's samplers, curves and strengths in the terms of schedulers here."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import exp, floor, nextafter
from typing import Any, NamedTuple

from ....components.handle import Handle
from ....components.schedulers import customary_names
from ....components.schedulers.base import Scheduler
from ....graph import Graph
from ....graph.errors import ConfigError
from ....registry import UnknownName
from .values import Model, Sampler, Sigmas

PROCESS = {"sd": "diffusion", "sdxl": "diffusion", "sd3": "flow", "flux": "flow"}
_LATENT_DIFFUSION: Mapping[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHIFT = {"sd3": 3.0, "flux": exp(1.15)}
"""ComfyUI's shift where no node sets one. Flux schnell has none."""
_SAME_HERE = {"dpmpp_sde_gpu": "dpmpp_sde", "dpmpp_2m_sde_gpu": "dpmpp_2m_sde", "dpmpp_3m_sde_gpu": "dpmpp_3m_sde",
              "dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde_heun", "uni_pc_bh1": "uni_pc"}  # fmt: skip
_DROPS = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")
"""Samplers for which ComfyUI leaves out the last level but one."""
_FALLBACK = "euler"


class Chosen(NamedTuple):
    """A scheduler by its customary name, and notes about what differs."""

    name: str
    notes: tuple[str, ...] = ()


def chosen(sampler: Sampler, sigmas: Sigmas, family: str) -> Chosen:
    """The customary name of a sampler with a curve. For a name that is not known here: Euler, and a note."""
    name, notes = _SAME_HERE.get(sampler.name, sampler.name), list[str]()
    if not _known(name, family):
        notes.append(f"the sampler {sampler.name!r} is not here; {_FALLBACK!r} is in its place")
        name = _FALLBACK
    if name in _DROPS and sigmas.curve:
        notes.append("ComfyUI leaves out the last noise level but one of this sampler; here it stays")
    if not sigmas.curve:
        return Chosen(name, tuple(notes))
    if not _known(f"{name}_{sigmas.curve}", family):
        notes.append(f"{name!r} has no curve {sigmas.curve!r}; its own levels are in its place")
        return Chosen(name, tuple(notes))
    return Chosen(f"{name}_{sigmas.curve}", tuple(notes))


def _known(name: str, family: str) -> bool:
    try:
        found = customary_names.find(name, PROCESS[family])
        process = found.cls.from_config(
            {**_base(family), **found.keys} if family in ("sd", "sdxl") else found.keys
        ).process
    except (UnknownName, ConfigError):
        return False
    return process == PROCESS[family] or (
        PROCESS[family] == "flow" and "use_flow_sigmas" in found.cls.__dataclass_fields__
    )


def with_scheduler(graph: Graph, component: str, name: str, model: Model) -> Graph:
    """The graph with this scheduler, and the keys that nodes set for the model. The bound one keeps its other keys."""
    keys = dict(model.scheduler)
    if PROCESS[model.family] == "flow":
        schnell = model.family == "flux" and "schnell" in model.file.name.lower()
        keys = {"shift": 1.0 if schnell else SHIFT[model.family], "use_dynamic_shifting": False, **keys}
    bound = graph.bindings.get(component)
    current: Any = bound.load() if isinstance(bound, Handle) else bound or _default(model.family)
    current = Scheduler.coerce(keys, current) if keys else current
    made = Scheduler.coerce(name, current)
    if keys and PROCESS[model.family] == "flow":
        own = {key: value for key, value in keys.items() if hasattr(made, key)}
        if "flow_shift" in type(made).__dataclass_fields__:
            own["flow_shift"] = keys["shift"]
        made = Scheduler.coerce(own, made)
    return graph.bind({component: made})


def _base(family: str) -> Mapping[str, Any]:
    return _LATENT_DIFFUSION if family in ("sd", "sdxl") else {}


def _default(family: str) -> Scheduler:
    from ....components import schedulers

    if PROCESS[family] == "flow":
        return schedulers.FlowMatchEulerDiscreteScheduler()
    return schedulers.EulerDiscreteScheduler(**_base(family))


class Part(NamedTuple):
    """Steps in all, and the strength that leaves so many of them."""

    steps: int
    strength: float


def part_of(steps: int, denoise: float, kept: Callable[[int, float], int]) -> Part:
    """ComfyUI's `denoise`: `steps` of `steps / denoise`. kept: how many of so many steps a strength leaves.

    >>> part_of(20, 0.5, kept_by_floor)
    Part(steps=40, strength=0.5)
    """
    if denoise >= 0.9999:
        return Part(steps, 1.0)
    total = max(int(steps / denoise), steps) if denoise > 0 else steps
    strength = steps / total
    for candidate in (strength, nextafter(strength, 1), nextafter(strength, 0)):
        if kept(total, candidate) == steps:
            return Part(total, candidate)
    return Part(total, strength)


def kept_by_floor(count: int, strength: float) -> int:
    """The steps that Stable Diffusion's `CutSchedule` keeps."""
    return floor(count * Fraction(repr(strength)))


def kept_by_flow(count: int, strength: float) -> int:
    """The steps that the `CutSchedule` of flow matching keeps."""
    return count - floor(count * (1 - Fraction(repr(strength))))
