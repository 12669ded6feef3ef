"""A tiny U-Net in the pipeline of the embedded model, and a recorder that replays on the CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato import Adapter, Graph
from sfumato.components.adapters.reading import adapter_of
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

CONFIG: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "sample_size": 8, "block_out_channels": [16], "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
    "norm_num_groups": 8, "attention_head_dim": 2, "cross_attention_dim": 128,
}  # fmt: skip
CALL: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 2, "output_type": "pt"}


Changes = Sequence[tuple[dict[str, Any], Tensor]]
"""Calls, and the pictures that torch makes of them."""


@dataclass(eq=False)
class Recorder:
    """Records on any device: a replay runs the forward again, into the same memory."""

    recorded: list[int] = field(default_factory=list[int])
    fails: bool = False

    def missing(self, device: str) -> str:
        return ""

    def record(self, forward: Callable[[], Any]) -> sf.engines.Recorded:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        output = forward()
        self.recorded.append(len(output))

        def replay() -> None:
            for kept, new in zip(output, forward(), strict=True):
                kept.copy_(new)

        return sf.engines.Recorded(replay, output)


@pytest.fixture(scope="session")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def pipe(unet: UNet2DConditionModel) -> Graph:
    return sf.load("emoji").bind(unet=unet)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def lora(unet: nn.Module, seed: int, rank: int = 2) -> Adapter:
    """A LoRA of linear layers and convolutions."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for path, layer in unet.named_modules():
        if path.endswith(("to_q", "to_v", "conv1")):
            out, *inner = getattr(layer, "weight").shape  # noqa: B009  any layer
            tensors[f"unet.{path}.lora_down.weight"] = torch.randn(rank, *inner, generator=generator) / 4
            up = torch.randn(out, rank, *[1] * (len(inner) - 1), generator=generator)
            tensors[f"unet.{path}.lora_up.weight"] = up
    return adapter_of(tensors.items(), name=f"style{seed}", source="made here")


def pictures(graph: Graph, **values: Any) -> Tensor:
    """The pictures of a call."""
    return torch.stack([torch.as_tensor(one) for one in graph(**{**CALL, **values}).images])


def used(graph: Graph, component: str = "unet") -> sf.engines.Report:
    """What the engine of a component did."""
    return sf.engines.report(graph)[component].report


@pytest.fixture(scope="session")
def twenty_changes(pipe: Graph, unet: nn.Module) -> Changes:
    """Calls that differ in guider, scale, scheduler, prompt, seed, steps, adapters and strengths, at one shape."""
    one, other = lora(unet, 1), lora(unet, 2)
    plain: list[dict[str, Any]] = [
        {}, {"prompt": "a cat"}, {"seed": 8}, {"num_inference_steps": 3}, {"guidance_scale": 3.0},
        {"guidance_scale": 9.0}, {"scheduler": "euler_a"}, {"scheduler": "dpmpp_2m"}, {"scheduler": "heun"},
        {"guider": sf.guiders.ClassifierFreeGuidance(guidance_rescale=0.5)}, {"negative_prompt": "blue"},
    ]  # fmt: skip
    adapted: list[dict[str, Any]] = [
        {"adapters": [one]}, {"adapters": [one.scaled(0.3)]}, {"adapters": [other]}, {"adapters": [other.scaled(2)]},
        {"adapters": [one], "seed": 9}, {"adapters": [one.scaled(0.1)], "scheduler": "ddim"},
        {"adapters": [other], "guidance_scale": 2.0}, {"adapters": [one], "prompt": "an owl"}, {"seed": 10},
    ]  # fmt: skip
    return [(change, pictures(pipe, **change)) for change in (*plain, *adapted)]
