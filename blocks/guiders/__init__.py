"""Guiders: blocks that choose the passes of a step and combine the predictions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...registry import guiders

if TYPE_CHECKING:
    from .apg import AdaptiveProjectedGuidance as AdaptiveProjectedGuidance
    from .apg import AdaptiveProjectedMixGuidance as AdaptiveProjectedMixGuidance
    from .auto import AutoGuidance as AutoGuidance
    from .cfg import ClassifierFreeGuidance as ClassifierFreeGuidance
    from .files import from_config as from_config
    from .files import from_pretrained as from_pretrained
    from .files import save_pretrained as save_pretrained
    from .frequency import FrequencyDecoupledGuidance as FrequencyDecoupledGuidance
    from .guider import Guider as Guider
    from .guider import NegativePromptGuider as NegativePromptGuider
    from .layers import LayerSkipConfig as LayerSkipConfig
    from .layers import SmoothedEnergyGuidanceConfig as SmoothedEnergyGuidanceConfig
    from .magnitude import MagnitudeAwareGuidance as MagnitudeAwareGuidance
    from .none import NoGuidance as NoGuidance
    from .perturbed import PerturbedAttentionGuidance as PerturbedAttentionGuidance
    from .perturbed import SkipLayerGuidance as SkipLayerGuidance
    from .perturbed import SmoothedEnergyGuidance as SmoothedEnergyGuidance
    from .schedule import GuidanceSchedule as GuidanceSchedule
    from .tangential import TangentialClassifierFreeGuidance as TangentialClassifierFreeGuidance
    from .zero_star import ClassifierFreeZeroStarGuidance as ClassifierFreeZeroStarGuidance

_MORE = {
    "Guider": ".guider",
    "NegativePromptGuider": ".guider",
    "LayerSkipConfig": ".layers",
    "SmoothedEnergyGuidanceConfig": ".layers",
    "from_config": ".files",
    "from_pretrained": ".files",
    "save_pretrained": ".files",
}


def __getattr__(name: str) -> Any:  # a guider's class
    if name in _MORE:
        return getattr(import_module(_MORE[name], __name__), name)
    if name.startswith("_") or name not in guiders:
        raise AttributeError(f"There is no guider {name!r}. There are: {', '.join(guiders)}.")
    return guiders[name]


def __dir__() -> list[str]:
    return [*guiders]
