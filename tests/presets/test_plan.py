"""Plans against runs: the same operations, the same weights, the same errors; and nothing is loaded."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sfumato as sf
from sfumato import ComponentsManager, Graph, InputError
from sfumato.components.planning.plan import Plan
from sfumato.components.types import Images, Latents

from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .sdxl import sdxl as sdxl
from .sdxl import sdxl_checkpoint as sdxl_checkpoint
from .support import picture

CALL: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 3}


def counted(pipe: Graph, **inputs: Any) -> int:
    """The operations of a run, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        pipe(**inputs)
    return counter.get_total_flops()


def rows(plan: Plan) -> dict[str, Any]:
    return {node.path: node for node in plan.nodes}


@pytest.mark.parametrize(
    "more",
    [
        {}, {"guider": "none"}, {"guider": "pag", "num_inference_steps": 2}, {"scheduler": "heun"},
        {"guider": sf.guiders.ClassifierFreeGuidance(stop=0.5), "prompt": ["a fox", "a cat"], "height": 96},
        {"guider": "slg"}, {"scheduler": "euler_a", "guidance_rescale": 0.5},
    ],
)  # fmt: skip
def test_a_plan_counts_the_operations_of_a_run(emoji: Graph, more: dict[str, Any]) -> None:
    plan = emoji.plan(**{**CALL, **more})
    assert plan.flops == counted(emoji, **{**CALL, **more}) and not plan.unknown
