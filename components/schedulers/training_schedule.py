"""The schedule of training: all noise levels at which a model learns, as steps."""

from functools import lru_cache

import numpy as np

from ...graph.errors import ConfigError
from .base import Scheduler
from .flow_match import FlowMatch, ShiftKeys, flow_schedule
from .flow_shift import shifted
from .keys import BetaKeys
from .schedule import Schedule
from .training_noise import TrainingNoise


@lru_cache(maxsize=16)
def training_schedule(scheduler: Scheduler) -> Schedule:
    """All training timesteps of a scheduler, from most noise to least: `num_train_timesteps` steps.

    Latents at a step are `alpha * clean + sigma * noise` of its level, and the model gets them as they are. For a
    diffusion model, step i has the timestep `num_train_timesteps - 1 - i` (Ho et al. 2020, equation 4). For flow
    matching, the levels are `num_train_timesteps` even ones, shifted by a constant `shift` (Esser et al. 2024, equation
    23); a shift that depends on the size of the image is left out, as in published training.

    Raises:
        ConfigError: a scheduler of another process.
    """
    if scheduler.process == "diffusion" and isinstance(scheduler, BetaKeys):
        training = TrainingNoise.of(scheduler)
        timesteps = range(scheduler.num_train_timesteps - 1, -1, -1)
        return Schedule.through([training.level(t) for t in (*timesteps, -1)], timesteps)
    if scheduler.process == "flow" and isinstance(scheduler, FlowMatch):
        count = scheduler.num_train_timesteps
        levels = np.linspace(1, count, count, dtype=np.float32)[::-1] / count
        if not (isinstance(scheduler, ShiftKeys) and scheduler.use_dynamic_shifting):
            levels = shifted(levels, scheduler.shift)
        levels = levels.astype(np.float32)
        return flow_schedule(np.append(levels, np.float32(0)), levels * np.float32(count))
    raise ConfigError(
        f"{type(scheduler).__name__} does not say at which noise levels its model was trained. Use the scheduler of "
        'the checkpoint, such as "ddpm" for a diffusion model or "flow_match_euler" for flow matching.'
    )


def prediction_kind(scheduler: Scheduler) -> str:
    """What the model predicts: "epsilon", "v_prediction", "sample", or "flow" (noise - clean)."""
    return "flow" if scheduler.process == "flow" else str(getattr(scheduler, "prediction_type", "epsilon"))
