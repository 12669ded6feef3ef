"""A schedule that is passed to a call: the scheduler of the run must be the one that made it."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.schedulers.schedule import Schedule

CALL: dict[str, Any] = {"prompt": "a fox", "seed": 1, "output_type": "pt"}


@pytest.fixture(scope="module")
def own() -> Any:
    """The scheduler of the embedded model."""
    return sf.load("emoji").bindings["scheduler"].load()


def saved(schedule: Schedule, folder: Path) -> Schedule:
    """The schedule after a file."""
    (folder / "steps.pkl").write_bytes(pickle.dumps(schedule))
    return pickle.loads((folder / "steps.pkl").read_bytes())


def test_a_schedule_of_the_runs_own_scheduler_is_taken_also_from_a_file(own: Any, tmp_path: Path) -> None:
    pipe = sf.load("emoji")
    images = pipe(**CALL, num_inference_steps=3).images
    assert torch.equal(pipe(**CALL, steps=own.steps(3)).images, images)
    assert torch.equal(pipe(**CALL, steps=saved(own.steps(3), tmp_path)).images, images)
    assert saved(own.steps(3)[1:], tmp_path).made_by == repr(own)
    same = type(own).from_config(own.to_config())
    assert torch.equal(pipe(**CALL, steps=same.steps(3)).images, images)


@pytest.mark.parametrize("in_file", [False, True])
def test_a_schedule_of_another_scheduler_is_refused_before_anything_runs(
    own: Any, in_file: bool, tmp_path: Path
) -> None:
    pipe = sf.load("emoji")
    other = sf.schedulers.EulerDiscreteScheduler.from_scheduler(own)
    for maker, said in ((other, "EulerDiscreteScheduler"), (sf.schedulers.DDIMScheduler(), r"DDIMScheduler\b.*")):
        steps = maker.steps(3)
        steps = saved(steps, tmp_path) if in_file else steps
        with pytest.raises(sf.InputError, match=rf"steps  was made by {said}.* and this graph has .*Scheduler\. Pass"):
            pipe(**CALL, steps=steps)
    euler = pipe.using(scheduler=other)
    assert euler(**CALL, steps=saved(other.steps(3), tmp_path)).images.isfinite().all()
    assert pipe(**CALL, scheduler=other, steps=other.steps(3)).images.isfinite().all()


def test_other_settings_are_named(own: Any) -> None:
    other = own.from_scheduler(own, timestep_spacing="trailing" if own.timestep_spacing != "trailing" else "leading")
    with pytest.raises(sf.InputError, match=rf"was made by {type(own).__name__} with other settings, and this graph"):
        sf.load("emoji")(**CALL, steps=other.steps(3))


def test_a_schedule_that_was_written_by_hand_is_taken(own: Any) -> None:
    plan = own.steps(3)
    parts = {name: getattr(plan, name) for name in ("sigmas", "timesteps", "levels", "targets", "scales_in", "places")}
    steps = Schedule(**parts, adds_noise=plan.adds_noise, noise_scale=plan.noise_scale)
    assert steps.made_by == ""
    assert sf.load("emoji")(**CALL, steps=steps).images.isfinite().all()
