"""DDIM and DDPM under the names of their kinds for parallel sampling (ParaDiGMS: Shih et al. 2023).

There, all turns of a window are guessed at once and set right until they agree, so a turn must not depend on what was
called before. Here no scheduler's does: `advance` is a function of a sample and its step, and any turns can be moved on
at once, with any scheduler whose history is empty. So these two differ from their sisters in nothing but the name.
"""

from dataclasses import dataclass

from .ddim import DDIMScheduler
from .ddpm import DDPMScheduler


@dataclass(frozen=True, kw_only=True)
class DDIMParallelScheduler(DDIMScheduler):
    """DDIMScheduler, as configs of parallel pipelines call it."""


@dataclass(frozen=True, kw_only=True)
class DDPMParallelScheduler(DDPMScheduler):
    """DDPMScheduler, as configs of parallel pipelines call it."""
