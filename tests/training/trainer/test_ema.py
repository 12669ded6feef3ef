"""The moving average equals its closed form and diffusers' EMAModel."""

from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel

import sfumato as sf
from sfumato.presets.training.ema import EMA, weights_in


def test_a_constant_decay_has_the_closed_form() -> None:
    """With the decay d at each step: average = d^n w_0 + sum over k of (1 - d) d^(n - k) w_k."""
    ema = EMA(max_decay=0.5, min_decay=0.5, after=0)
    weights = torch.rand(6, 3, dtype=torch.float64)
    average = [weights[0].clone()]
    for step in range(1, 6):
        ema.update(average, [weights[step]], step)
    first, decay = 1, 0.5  # the first step copies the weights
    closed = decay**4 * weights[first] + sum((1 - decay) * decay ** (5 - k) * weights[k] for k in range(2, 6))
    torch.testing.assert_close(average[0], closed, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"max_decay": 0.3}, {"after": 3}, {"warmup": True, "inverse_gamma": 2.0, "power": 0.75}, {"min_decay": 0.2}],
)
def test_the_average_is_that_of_diffusers(options: dict[str, Any]) -> None:
    names = {"max_decay": "decay", "after": "update_after_step", "warmup": "use_ema_warmup"}
    names["inverse_gamma"] = "inv_gamma"
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameters: Any = [parameter]
    ema, reference = EMA(**options), EMAModel(parameters, **{names.get(k, k): v for k, v in options.items()})
    average: Any = [parameter.detach().clone()]
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 9):
        with torch.no_grad():
            parameter += torch.randn(4, generator=generator)
        ema.update(average, parameters, step)
        reference.step(parameters)
        assert ema.decay(step) == reference.cur_decay_value
        assert torch.equal(average[0], reference.shadow_params[0])


def test_other_weights_are_only_there_for_a_while() -> None:
    parameter = torch.nn.Parameter(torch.rand(3))
    before = parameter.detach().clone()
    with weights_in([parameter], [torch.ones(3)]):
        assert torch.equal(parameter, torch.ones(3))
    assert torch.equal(parameter, before)


def test_wrong_options_are_refused() -> None:
    assert EMA.of(False) is None and EMA.of(True) == EMA()
    with pytest.raises(sf.ConfigError, match=r"^ema has no option 'max_decays'. Did you mean 'max_decay'\?"):
        EMA.of({"max_decays": 0.9})
    with pytest.raises(sf.ConfigError, match=r"^ema.max_decay takes float \(.* less than or equal to 1\), got 2"):
        EMA.of({"max_decay": 2})
