"""What control nets say of several passes at once goes to the denoiser as it is, and is cut only where it must be."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.blocks.control.images import read_control
from sfumato.blocks.control.residuals import add_residuals, is_inside
from sfumato.components.conditioning import SDConditioning
from sfumato.components.schedulers import HeunDiscreteScheduler
from sfumato.components.schedulers.euler import EulerDiscreteScheduler
from sfumato.components.types import Pass, RepeatLayers, Residuals, Rows, sum_residuals
from sfumato.graph.ports import ALONE

STEPS = EulerDiscreteScheduler().steps(4)
PLACES: dict[str, RepeatLayers | None] = {"down": None, "mid": None}
LATENTS = torch.zeros(2, 4, 8, 8)
WORDS = [SDConditioning(torch.full((2, 3, 4), float(k))) for k in range(2)]
PASSES = [Pass(LATENTS, STEPS[0], WORDS[0], "negative"), Pass(LATENTS, STEPS[0], WORDS[1])]


def asked(passes: Sequence[Pass], **more: Any) -> tuple[list[Pass], list[Residuals]]:
    """What the denoiser is asked, and what the control net has said."""
    seen: list[Pass] = []
    said: list[Residuals] = []

    def predict(passes: Sequence[Pass]) -> Sequence[Tensor]:
        seen.extend(passes)
        return [p.latents for p in passes]

    def control(passes: Sequence[Pass]) -> Residuals:
        rows = torch.cat([p.conditioning.tokens[:, :1, :1, None] for p in passes])
        said.append({"down": (rows + 1, rows + 2), "mid": (rows + 3,)})
        return said[-1]

    add_residuals(predict, control, lambda _: True, ALONE, **more)(passes)
    return seen, said


def test_what_was_said_of_passes_that_stay_together_is_not_copied() -> None:
    seen, (said,) = asked(PASSES)
    joined = sum_residuals(seen, PLACES)
    assert all(a is b for place in said for a, b in zip(joined[place], said[place], strict=True))


def test_in_another_order_or_apart_each_pass_has_its_own_rows() -> None:
    seen, (said,) = asked(PASSES)
    turned = sum_residuals(seen[::-1], PLACES)
    assert torch.equal(turned["mid"][0], said["mid"][0].roll(2, 0))
    for p, rows in zip(seen, said["mid"][0].split(2), strict=True):
        assert torch.equal(sum_residuals([p], PLACES)["mid"][0], rows)


def test_what_two_nets_say_is_added() -> None:
    seen, (said,) = asked(PASSES)
    both, (other,) = asked(seen)
    assert torch.equal(sum_residuals(both, PLACES)["mid"][0], said["mid"][0] + other["mid"][0])


def test_nets_of_unlike_depths_are_spread_each_by_its_own_interval() -> None:
    """diffusers adds the first layers of each and drops the others of the deeper net."""
    two, three = (tuple(torch.full((2, 1), n + 10.0**k) for k in range(n)) for n in (2, 3))

    def over_six(layers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(layers[i * len(layers) // 6] for i in range(6))

    both = replace(PASSES[0], residuals=({"blocks": two}, {"blocks": three}, {"blocks": two}))
    (found,) = sum_residuals([both], {"blocks": over_six}).values()
    assert all(torch.equal(t, 2 * two[i // 3] + three[i // 2]) for i, t in enumerate(found))
    alone = replace(PASSES[0], residuals=({"blocks": three},))
    rows = sum_residuals([replace(both, residuals=({"blocks": two},)), alone], {"blocks": over_six})["blocks"]
    assert all(torch.equal(t, torch.cat([two[i // 3], three[i // 2]])) for i, t in enumerate(rows))


def test_where_layers_cannot_be_spread_unlike_nets_are_refused() -> None:
    layers = torch.zeros(2, 1), torch.zeros(2, 1)
    both = replace(PASSES[0], residuals=({"down": layers}, {"down": layers[:1]}))
    with pytest.raises(TypeError, match="need equal numbers of layers at 'down', got 2 and 1"):
        sum_residuals([both], PLACES)


def test_a_negative_pass_that_is_spared_has_zeros_of_that_size() -> None:
    seen, (said,) = asked(PASSES, spare_negative=True)
    assert len(said["mid"][0]) == 2
    joined = sum_residuals(seen, PLACES)["mid"][0]
    assert not joined[:2].any()
    assert torch.equal(joined[2:], said["mid"][0])


def test_passes_that_differ_in_what_the_denoiser_does_are_one_question() -> None:
    perturbed = replace(PASSES[1], role="perturbed")
    seen, (said,) = asked([*PASSES, perturbed])
    assert len(said["mid"][0]) == 4
    assert torch.equal(sum_residuals([seen[2]], PLACES)["mid"][0], said["mid"][0][2:])


def test_an_interval_counts_the_steps_of_this_run() -> None:
    on = [is_inside(step, 0.25, 0.75) for step in STEPS]
    assert on == [False, True, True, False]
    assert [is_inside(step, 0.0, 0.5) for step in STEPS[2:]] == [True, False]
    assert [is_inside(step, 0.0, 0.5) for step in HeunDiscreteScheduler().steps(4)] == [True] * 4 + [False] * 3


def test_passes_of_single_rows_read_the_control_pictures_of_their_rows() -> None:
    """As in training, where each row is at a step of its own."""
    pictures = torch.rand(3, 3, 8, 8)
    features = read_control(pictures, Rows(3, 1), lambda h, w: (h, w), 3, lambda pixels: (pixels,), "black")
    passes = [Pass(LATENTS[:1], STEPS[i], WORDS[0][:1], row=i) for i in (2, 0)]
    (found,) = features(passes)
    assert torch.equal(found, pictures[[2, 0]])
