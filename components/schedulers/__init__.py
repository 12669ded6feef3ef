"""Schedulers as immutable values: how noise falls over a run, and how a sample moves from one level to the next.

Names are looked up in `registry.schedulers`, and their modules are imported at first use.
"""

from typing import TYPE_CHECKING, Any

from ...registry import schedulers as _table

if TYPE_CHECKING:
    from .base import Scheduler as Scheduler
    from .cogvideox import CogVideoXDDIMScheduler as CogVideoXDDIMScheduler
    from .cogvideox import CogVideoXDPMScheduler as CogVideoXDPMScheduler
    from .consistency import CMStochasticIterativeScheduler as CMStochasticIterativeScheduler
    from .consistency import ConsistencyDecoderScheduler as ConsistencyDecoderScheduler
    from .consistency import SCMScheduler as SCMScheduler
    from .ddim import DDIMParallelScheduler as DDIMParallelScheduler
    from .ddim import DDIMScheduler as DDIMScheduler
    from .ddim_inverse import DDIMInverseScheduler as DDIMInverseScheduler
    from .ddpm import DDPMParallelScheduler as DDPMParallelScheduler
    from .ddpm import DDPMScheduler as DDPMScheduler
    from .deis import DEISMultistepScheduler as DEISMultistepScheduler
    from .dpmsolver import DPMSolverMultistepScheduler as DPMSolverMultistepScheduler
    from .dpmsolver_inverse import DPMSolverMultistepInverseScheduler as DPMSolverMultistepInverseScheduler
    from .edm import CosineDPMSolverMultistepScheduler as CosineDPMSolverMultistepScheduler
    from .edm import EDMDPMSolverMultistepScheduler as EDMDPMSolverMultistepScheduler
    from .edm import EDMEulerScheduler as EDMEulerScheduler
    from .euler import EulerAncestralDiscreteScheduler as EulerAncestralDiscreteScheduler
    from .euler import EulerDiscreteScheduler as EulerDiscreteScheduler
    from .flow_map import FlowMapEulerDiscreteScheduler as FlowMapEulerDiscreteScheduler
    from .flow_map import LTXEulerAncestralRFScheduler as LTXEulerAncestralRFScheduler
    from .flow_match import FlowMatchEulerDiscreteScheduler as FlowMatchEulerDiscreteScheduler
    from .flow_match import FlowMatchHeunDiscreteScheduler as FlowMatchHeunDiscreteScheduler
    from .flow_match import FlowMatchLCMScheduler as FlowMatchLCMScheduler
    from .heun import HeunDiscreteScheduler as HeunDiscreteScheduler
    from .heun import KDPM2AncestralDiscreteScheduler as KDPM2AncestralDiscreteScheduler
    from .heun import KDPM2DiscreteScheduler as KDPM2DiscreteScheduler
    from .history import History as History
    from .ipndm import IPNDMScheduler as IPNDMScheduler
    from .karras_ve import KarrasVeScheduler as KarrasVeScheduler
    from .lcm import LCMScheduler as LCMScheduler
    from .lcm import TCDScheduler as TCDScheduler
    from .lms import LMSDiscreteScheduler as LMSDiscreteScheduler
    from .pndm import PNDMScheduler as PNDMScheduler
    from .repaint import RePaintScheduler as RePaintScheduler
    from .request import Request as Request
    from .sasolver import SASolverScheduler as SASolverScheduler
    from .schedule import Level as Level
    from .schedule import Schedule as Schedule
    from .schedule import Step as Step
    from .score_sde import ScoreSdeVeScheduler as ScoreSdeVeScheduler
    from .score_sde import ScoreSdeVpScheduler as ScoreSdeVpScheduler
    from .sde import DPMSolverSDEScheduler as DPMSolverSDEScheduler
    from .singlestep import DPMSolverSinglestepScheduler as DPMSolverSinglestepScheduler
    from .unclip import UnCLIPScheduler as UnCLIPScheduler
    from .unipc import UniPCMultistepScheduler as UniPCMultistepScheduler
    from .wuerstchen import DDPMWuerstchenScheduler as DDPMWuerstchenScheduler

_OWN = {
    "Scheduler": "base",
    "History": "history",
    "Request": "request",
    "Schedule": "schedule",
    "Step": "schedule",
    "Level": "schedule",
}


def __getattr__(name: str) -> Any:  # Any: a class of this package or of a plugin
    if name in _OWN:
        from importlib import import_module

        return getattr(import_module(f".{_OWN[name]}", __name__), name)
    if not name.startswith("_") and name not in _table.aliases:
        for published in (name, f"{name}Scheduler"):  # sf.schedulers.DPMSolverMultistep will do
            if published in _table:
                return _table[published]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*_OWN, *_table})
