"""Time a forward of a denoiser by each engine, beside diffusers, OpenVINO converted by hand, and diffusers compiled.

`python tests/benchmarks/bench_engines.py [--only NAME …] [--engines NAME …] [--rounds N] [--threads N]`. The models are
those of `subjects.py`; without `--only`, the embedded one and the tiny ones, since converting and compiling one of
Stable Diffusion's size takes minutes. OpenVINO uses as many threads as torch. The targets are a ratio of 1.02 to the
conversion by hand, and of 0.95 to diffusers compiled: its repeated blocks, as ours.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from paired import in_turns, ratio, seconds, timed
from rich.console import Console
from rich.table import Table
from subjects import SUBJECTS, Subject, subjects
from torch import Tensor, nn
from torch.utils import _pytree

import sfumato as sf
from sfumato.components.engines.openvino_import import openvino
from sfumato.components.engines.optimized import Optimized
from sfumato.presets.bench.peer import _their_arguments

Forward = Callable[[], Tensor]
ENGINES: Mapping[str, tuple[Any, str]] = {
    "openvino": (sf.engines.OpenVINO(), "openvino by hand"),
    "compile": (sf.engines.Compile(shapes="fixed"), "diffusers compiled"),
}
"""Our engines, and the version that each is compared with."""


class Flat(nn.Module):
    """Diffusers' model as a function of tensors alone, for the converter. like: its arguments."""

    def __init__(self, model: Any, like: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        leaves, self.form = _pytree.tree_flatten(dict(like))
        self.fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.tensors = tuple(leaves[i] for i in self.places)

    def forward(self, *tensors: Tensor) -> Tensor:
        """The prediction."""
        leaves = list(self.fixed)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return self.model(**_pytree.tree_unflatten(leaves, self.form))[0]


def converted_by_hand(model: Flat) -> Forward:
    """A conversion of a model without anything of ours."""
    package = openvino()
    with torch.no_grad():
        converted = package.convert_model(model, example_input=model.tensors)
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = package.Core().compile_model(converted, "CPU", {**hints, **threads}).create_infer_request()
    inputs = [package.Tensor(tensor.contiguous().numpy(), shared_memory=True) for tensor in model.tensors]
    return lambda: torch.from_numpy(request.infer(inputs)[0])


def last_call(subject: Subject) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of the last forward of a run of two steps."""
    calls: list[tuple[Any, Any]] = []

    def watch(_: nn.Module, args: Any, named: Any) -> None:
        calls.append((args, named))

    handle = subject.model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        subject.graph(**subject.values, num_inference_steps=2, progress=False)
    finally:
        handle.remove()
    return calls[-1]


def forwards(subject: Subject, engines: Sequence[str]) -> dict[str, Forward]:
    """What is timed, by name."""
    model, other = subject.model, subject.their_model
    args, named = last_call(subject)
    flat = Flat(other.eval(), _their_arguments(model, other, args, named))
    made: dict[str, Forward] = {
        "eager": partial(model, *args, **named),
        "diffusers": partial(flat, *flat.tensors),
    }
    component = "unet" if "unet" in subject.graph.bindings else "transformer"
    for name in engines:
        made[name] = partial(Optimized(model, component, ENGINES[name][0]).load(), *args, **named)
    if "openvino" in engines:
        made["openvino by hand"] = converted_by_hand(flat)
    if "compile" in engines:
        fresh = type(other).from_config(other.config).eval().requires_grad_(False)
        fresh.load_state_dict(other.state_dict(), assign=True)
        fresh.compile_repeated_blocks(fullgraph=True, dynamic=False)
        again = Flat(fresh, _their_arguments(model, other, args, named))
        made["diffusers compiled"] = partial(again, *again.tensors)
    return made


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["embedded", "tiny SDXL", "tiny Flux"], choices=list(SUBJECTS))
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for subject in subjects(*options.only):
        table = Table("forward", "ms", "by eager", "by its peer", "difference", title=subject.name)
        with torch.no_grad():
            calls = forwards(subject, options.engines)
            expected = calls["eager"]()
            expected = expected[0] if isinstance(expected, tuple) else expected
            errors = {n: float((f() - expected).abs().max() / expected.abs().max()) for n, f in calls.items()}
            rounds = in_turns({name: partial(timed, call) for name, call in calls.items()}, options.rounds)
        peers = {"eager": "diffusers", **{name: ENGINES[name][1] for name in options.engines}}
        for name in calls:
            peer = str(ratio(rounds, name, peers[name])) if name in peers else ""
            by_eager = "" if name == "eager" else str(ratio(rounds, name, "eager"))
            table.add_row(name, f"{seconds(rounds, name).median * 1e3:.2f}", by_eager, peer, f"{errors[name]:.1e}")
        Console(width=130).print(table)


if __name__ == "__main__":
    main()
