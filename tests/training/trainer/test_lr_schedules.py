"""Schedules of the learning rate equal diffusers' curves, and the formula of REX."""

from typing import Any

import pytest
import torch
from diffusers.optimization import get_scheduler

import sfumato as sf
from sfumato.presets.training.lr_schedules import make_lr_schedule
from sfumato.registry import UnknownName


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize(
    ("choice", "name", "options"),
    [
        ("constant", "constant_with_warmup", {}),
        ("linear", "linear", {}),
        ("cosine", "cosine", {}),
        ({"name": "cosine_with_restarts", "cycles": 3}, "cosine_with_restarts", {"num_cycles": 3}),
        ({"name": "polynomial", "power": 2.0, "end": 1e-4}, "polynomial", {"power": 2.0}),
    ],
)
def test_schedules_equal_those_of_diffusers(choice: Any, name: str, options: dict[str, Any], warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)  # diffusers' polynomial ends at 1e-7
    reference = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=40, **options)
    factor = make_lr_schedule(choice, 40, warmup)
    assert [1e-3 * factor(step) for step in range(41)] == pytest.approx(
        [reference.lr_lambdas[0](step) * 1e-3 for step in range(41)], abs=1e-9
    )


def test_rex_is_its_formula() -> None:
    factor = make_lr_schedule("rex", 110, 10)
    assert [factor(step) for step in (5, 10, 60, 109, 110)] == pytest.approx([0.5, 1, 0.5 / 0.75, 0.01 / 0.505, 0])


def test_wrong_names_and_options_name_similar_ones() -> None:
    with pytest.raises(UnknownName, match=r"^No lr_schedule is called 'cosin'. Did you mean 'cosine'\?"):
        make_lr_schedule("cosin", 10, 0)
    with pytest.raises(sf.ConfigError, match=r"^lr_schedule 'polynomial' has no option 'powr'. Did you mean 'power'\?"):
        make_lr_schedule({"name": "polynomial", "powr": 2}, 10, 0)
