"""Optimizers by name, with their options, groups and missing packages."""

from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.presets.training import optimizers
from sfumato.presets.training.optimizers import OPTIMIZERS, make_optimizer
from sfumato.registry import UnknownName

from .conftest import Net


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if not name.endswith("_8bit")])  # those import triton
def test_each_optimizer_lowers_the_loss(name: str) -> None:
    net = Net(factor=1.0)
    optimizer = make_optimizer(name, net.groups(), None if name == "prodigy" else 0.01)
    getattr(optimizer, "train", lambda: None)()
    points = torch.rand(4, 3)
    losses = list[float]()
    for _ in range(30):
        loss = (net.net(points) - 1).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert [group["name"] for group in optimizer.param_groups] == ["first", "second"]


def test_options_and_learning_rates_reach_the_groups() -> None:
    optimizer = make_optimizer(
        {"name": "adamw", "betas": (0.5, 0.9), "weight_decay": 0.25}, Net().groups(), 0.5, {"first": 0.125}
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 1.0]  # the second group has the factor 2
    assert optimizer.defaults["betas"] == (0.5, 0.9) and optimizer.defaults["weight_decay"] == 0.25


@pytest.mark.parametrize(
    ("choice", "rates", "message"),
    [
        ({"name": "adamw", "beta": 1}, {}, r"^optimizer 'adamw' has no option 'beta'. Did you mean 'betas'\?"),
        ({"name": "sgd", "lr": 1}, {}, r"^optimizer 'sgd': lr is a setting of its own. Pass learning_rate=1.$"),
        ("adamw", {"frst": 1.0}, r"^learning_rates: there is no group 'frst'. Did you mean 'first'\?"),
        ("prodigy", {}, r"^optimizer 'prodigy': needs one learning rate for all groups, got first 1, second 2. Remove"),
        ({"name": "adamw", "betas": (2.0, 0.9)}, {}, r"^optimizer 'adamw': Invalid beta parameter at index 0: 2.0. Ch"),
    ],
)
def test_wrong_choices_are_refused(choice: Any, rates: dict[str, float], message: str) -> None:
    with pytest.raises(sf.ConfigError, match=message):
        make_optimizer(choice, Net().groups(), None, rates)


def test_an_optimizer_that_reads_whole_matrices_is_refused_for_parts() -> None:
    with pytest.raises(sf.ConfigError, match=r"^optimizer 'adafactor': needs whole weights, and FSDP divides them. Ch"):
        make_optimizer("adafactor", Net().groups(), sharded=True)


def test_an_unknown_name_or_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match=r"^No optimizer is called 'adam_w'. Did you mean 'adamw'\?"):
        make_optimizer("adam_w", Net().groups())
    monkeypatch.setattr(optimizers, "find_spec", {"torch": "found"}.get)
    with pytest.raises(sf.ConfigError) as error:
        make_optimizer("prodigy", Net().groups())
    assert str(error.value) == (
        "optimizer 'prodigy': needs the package prodigyopt. Install it: pip install \"sfumato[train-optimizers]\""
    )
