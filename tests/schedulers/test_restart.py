"""Runs that start in the middle: `published_restart` gives those of the published image-to-image pipelines."""

import itertools

import pytest
import torch
from torch import Tensor

from sfumato.components.schedulers import Scheduler
from sfumato.registry import schedulers

from .grid import SD, SHAPE, Config, reference
from .test_published_loops import model

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # in the reference

RESTARTS: list[tuple[str, Config]] = [
    (name, {**SD, **more, "prediction_type": prediction, "timestep_spacing": spacing})
    for name, more in (("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}), ("LMSDiscreteScheduler", {}))
    for prediction, spacing in itertools.product(("epsilon", "v_prediction"), ("leading", "linspace", "trailing"))
]


def from_the_middle(scheduler: Scheduler, n: int, start: int, clean: Tensor, noise: Tensor) -> Tensor:
    """Our run from a whole step on."""
    schedule = scheduler.steps(n)
    schedule = schedule[schedule.places.index(start) :]
    x, history = scheduler.add_noise(clean, noise, schedule[0]), ()
    for step in schedule:
        x, history = scheduler.advance(x, model(x * step.scale_in, float(step.timestep)), step, history)
    return x


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("name", "config"), RESTARTS)
def test_a_published_restart_is_the_run_of_the_published_image_to_image(
    name: str, config: Config, strength: float
) -> None:
    """`get_timesteps` of the pipelines: the last steps of the list, with the scheduler's own counter at 0."""
    n = 10
    start = n - int(n * strength)
    generator = torch.Generator().manual_seed(3)
    clean, noise = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    theirs = getattr(reference, name)(**config)
    theirs.set_timesteps(n)
    timesteps = theirs.timesteps[start * theirs.order :]
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(start * theirs.order)
    x = theirs.add_noise(clean, noise, timesteps[:1])
    for t in timesteps:
        x = theirs.step(model(theirs.scale_model_input(x, t), float(t)), t, x).prev_sample
    ours = from_the_middle(schedulers[name](**config, published_restart=True), n, start, clean, noise)
    assert (ours - x).abs().max() <= 1e-5 * x.abs().max()
    if start:
        anew = from_the_middle(schedulers[name](**config), n, start, clean, noise)
        assert (anew - x).abs().max() > 1e-4 * x.abs().max()
