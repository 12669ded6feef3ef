"""CUDA graphs: a forward of the denoiser is recorded once for each shape, and launched as one."""

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ..adapters.adapted import attached_to
from ..adapters.layers import PatchedLayer, Strengths
from ..models.views import shallow_copy, view
from .calls import Call, Layout, class_of_output, flattened, unflattened
from .capture import CudaGraphs, Recorded, Recorder
from .compiled import Compile
from .engine import DENOISERS, Candidate, Engine, sites
from .fused import Fused
from .layer import Site, at_site
from .programs import Program, Programs, Unmade
from .tree import Changes


@dataclass(frozen=True)
class Graphs(Engine):
    """Record a forward of the denoiser for each shape, and launch its kernels at once: less time between kernels.

    A recording takes one to three seconds. Its inputs are copied into memory of its own, and so are the strengths of
    adapters. compiled: compile the blocks first. fused: compute layers together first; a compiler does so by itself.
    recorder: what records.
    """

    name: ClassVar[str] = "graphs"
    compiled: Compile | None = None
    fused: Fused | None = None
    recorder: Recorder = field(default_factory=CudaGraphs)

    @property
    def tolerance(self) -> float:
        """Zero, since the kernels are the same; with `compiled` or `fused`, the larger one of theirs."""
        return max((one.tolerance for one in (self.fused, self.compiled) if one is not None), default=0.0)

    def chosen(self, candidate: Candidate) -> bool:
        """The denoiser, which runs at every step."""
        return candidate.is_model and candidate.name in DENOISERS

    def refusal(self, candidate: Candidate) -> str:
        """Why it cannot run a component; "" if it can."""
        return super().refusal(candidate) or self.recorder.missing(candidate.device)

    def view(self, model: nn.Module, programs: Programs) -> nn.Module:
        """A view whose sites launch recorded forwards."""
        for first in (self.fused, self.compiled):
            model = model if first is None else first.view(model, programs)
        return view(model, {path: at_site(path, self, programs) for path in sites(model)})

    # ------------------------------------------------------------------------------------------ programs
    def unfit(self, call: Call, layer: nn.Module, found: Changes) -> str:
        """Why torch must run this call; "" if a recording can."""
        devices = {tensor.device for tensor in call.tensors}
        device = next((p.device for p in layer.parameters()), None)
        if devices != {device}:
            return f"its tensors are on {', '.join(sorted(map(str, devices)))}, and its weights on {device}"
        return ""

    def program_key(self, call: Call, layer: nn.Module, found: Changes) -> Hashable:
        """Shapes, strides, the patches of adapters with the shapes of their strengths, and where the weights are."""
        attached = attached_to(layer) if found.patched else None
        patches = None if attached is None else attached.patches
        strengths = tuple(tuple(one.values.shape) for one in found.strengths)
        weights = next((p.data_ptr() for p in layer.parameters()), 0)
        return call.shapes, patches, strengths, found.patched, weights

    def program(self, call: Call, layer: nn.Module, plain: nn.Module, at: Site) -> Program:
        """A recording of the forward."""
        try:
            made = Recording(self.recorder, call, plain, at.changes(layer), at)
        except RuntimeError as error:
            raise Unmade(f"its forward cannot be recorded: {str(error).splitlines()[0]}") from error
        at.programs.report.made += 1
        return made


@dataclass(frozen=True)
class Max(Graphs):
    """`Graphs` over blocks that are compiled with autotuning: the fastest on a GPU, after minutes at its first call."""

    name: ClassVar[str] = "max"
    compiled: Compile | None = field(default_factory=lambda: Compile(autotune=True))


class Recording:
    """A recorded forward with memory of its own for inputs and strengths. One thread uses it at a time."""

    def __init__(self, recorder: Recorder, call: Call, plain: nn.Module, found: Changes, at: Site) -> None:
        self._lock, self._at = threading.Lock(), at
        self._class = class_of_output(at.kind)
        self._inputs = [tensor.detach().clone() for tensor in call.tensors]
        device = self._inputs[0].device
        self._strengths = {id(one): Strengths(one.values.to(device).clone()) for one in found.strengths}
        own = view(plain, dict.fromkeys(found.patched, self._with_own_strengths))
        args, named = call.rest.arguments(self._inputs)
        self._form: Layout = None

        def forward() -> list[Tensor]:
            outputs, self._form = flattened(own(*args, **named))
            return outputs

        with torch.no_grad():
            self._recorded: Recorded = recorder.record(forward)

    def _with_own_strengths(self, layer: nn.Module) -> nn.Module:
        twin = shallow_copy(layer)
        twin.__dict__["strengths"] = self._strengths[id(cast("PatchedLayer", layer).strengths)]
        return twin

    def __call__(self, tensors: Sequence[Tensor], layer: nn.Module) -> Any:
        """The output for these tensors, in memory of the caller."""
        found = self._at.changes(layer).strengths
        with self._lock, torch.no_grad():
            for own, tensor in zip(self._inputs, tensors, strict=True):
                own.copy_(tensor)
            for own, one in zip(self._strengths.values(), found, strict=True):
                own.values.copy_(one.values)
            self._recorded.replay()
            return unflattened([t.clone() for t in self._recorded.output], self._form, self._class)
