"""Time a forward of a U-Net by each engine beside eager torch, diffusers, and OpenVINO converted by hand, in turns.

The embedded U-Net, and one of half the width of Stable Diffusion 1.5 at 256x256 with random weights. `--threads N` sets
torch's threads, 2 by default; OpenVINO uses as many.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as TheirUNet
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.engines.openvino_import import openvino
from sfumato.components.engines.optimized import Optimized
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel

HALF: Mapping[str, Any] = {
    "block_out_channels": (160, 320, 640, 640), "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 32,
}  # fmt: skip
Forward = Callable[[], Tensor]


class Flat(nn.Module):
    """Diffusers' model with tensors alone, for the converter."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        """The prediction."""
        return self.model(sample, timestep, prompt, return_dict=False)[0]


def by_hand(model: nn.Module, call: tuple[Tensor, ...]) -> Forward:
    """A conversion of a model without anything of ours."""
    package = openvino()
    with torch.no_grad():
        converted = package.convert_model(model, example_input=call)
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = package.Core().compile_model(converted, "CPU", {**hints, **threads}).create_infer_request()
    inputs = [package.Tensor(tensor.numpy(), shared_memory=True) for tensor in call]
    return lambda: torch.from_numpy(request.infer(inputs)[0])


def forwards(model: Any, call: tuple[Tensor, ...]) -> dict[str, Forward]:
    """What is timed, by name."""
    config = {name: value for name, value in model.to_config().items() if name != "_class_name"}
    theirs: Any = TheirUNet.from_config(config)
    theirs.load_state_dict(model.state_dict(), assign=True)
    last = UNet2DConditionModel(**config).eval().requires_grad_(False)
    last.load_state_dict(model.state_dict())
    last = last.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    fast = {
        name: Optimized(model, "unet", engine).load()
        for name, engine in (("openvino", sf.engines.OpenVINO()), ("compile", sf.engines.Compile(shapes="fixed")))
    }
    flat = Flat(theirs.eval())
    return {
        "eager": partial(model, *call), "channels_last": partial(last, *call), "diffusers": partial(flat, *call),
        **{name: partial(view, *call) for name, view in fast.items()},
        "openvino by hand": by_hand(flat, call),
    }  # fmt: skip


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    embedded: Any = sf.load("emoji").bindings["unet"].load()
    half = UNet2DConditionModel(**HALF).eval().requires_grad_(False)
    for name, model, channels, side, width in (("embedded", embedded, 8, 8, 128), ("half of SD 1.5", half, 4, 32, 768)):
        call = torch.randn(2, channels, side, side), torch.full((2,), 500.0), torch.randn(2, 77, width)
        table = Table("forward", "ms", "by eager", "by openvino by hand", "difference", title=name)
        with torch.no_grad():
            timed = forwards(model, call)
            expected = timed["eager"]()
            errors = {n: float((f() - expected).abs().max() / expected.abs().max()) for n, f in timed.items()}
            rounds = [{n: seconds(f) for n, f in timed.items()} for _ in range(options.rounds)]
        for n in timed:
            by = [statistics.median(r[n] / r[base] for r in rounds) for base in ("eager", "openvino by hand")]
            median = statistics.median(r[n] for r in rounds)
            table.add_row(n, f"{median * 1e3:.2f}", *(f"{ratio:.3f}" for ratio in by), f"{errors[n]:.1e}")
        Console().print(table)


def seconds(call: Forward) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
