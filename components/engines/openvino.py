"""OpenVINO: models converted from their modules, for CPUs and for GPUs and NPUs of Intel."""

import warnings
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ...graph.memo.code import code_key, digest
from ..adapters.adapted import attached_to
from ..adapters.merging import merged_view
from ..models.views import shallow_copy, view
from .calls import Call, Layout, Rest, class_of_output, flattened, unflattened
from .engine import Candidate, Engine, sites
from .layer import Site, at_site
from .openvino_files import read_ir, write_ir
from .openvino_import import core, nncf, openvino, require, traced
from .programs import Program, Programs, Unmade
from .tree import Changes

Weights = Literal["f32", "bf16", "int8", "int4"]
"""The numbers of weights: "f32" and "bf16" compute in them, "int8" and "int4" store weights so, for less memory."""
ModelShapes = Literal["dynamic", "fixed"]
"""`"dynamic"`: one program for all shapes. `"fixed"`: one for each shape, which may be faster and takes more memory."""

_TOLERANCES = {"f32": 1e-4, "bf16": 0.05, "int8": 0.1, "int4": 0.5}


@dataclass(frozen=True)
class OpenVINO(Engine):
    """Run models with OpenVINO. Each is converted at its first call; LoRA adapters are merged before that.

    weights: their numbers; see `Weights`. shapes: see `ModelShapes`. device: OpenVINO's name of it: "CPU", "GPU",
    "NPU", "AUTO". cache: a folder for converted models, by their contents, so that another process converts nothing;
    None to keep them in memory alone. It uses as many threads as torch (`torch.set_num_threads`).

    Raises:
        ConfigError: a setting that is none of these, or a package that is missing.
    """

    name: ClassVar[str] = "openvino"
    own_attention: ClassVar[bool] = True
    weights: Weights = "f32"
    shapes: ModelShapes = "dynamic"
    device: str = "CPU"
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        for setting, allowed in (("weights", get_args(Weights)), ("shapes", get_args(ModelShapes))):
            if (value := getattr(self, setting)) not in allowed:
                raise ConfigError(f"openvino: {setting} needs one of {', '.join(allowed)}. Got {value!r}.")
        for package in ("openvino", *(["nncf"] if self.weights in ("int8", "int4") else [])):
            require(package)

    @property
    def tolerance(self) -> float:
        """By the weights: 1e-4 in float32. Narrow weights are another model; how near it is depends on the model."""
        return _TOLERANCES[self.weights]

    @property
    def key(self) -> str:
        """Its settings without the cache."""
        return f"openvino {self.weights} {self.shapes} {self.device} {version('openvino')}"

    def refusal(self, candidate: Candidate) -> str:
        """Why it cannot run a component; "" if it can."""
        if found := super().refusal(candidate):
            return found
        if candidate.quantized:
            return "is quantized. Load it without quantization, and pass weights='int8' or 'int4'"
        return "" if candidate.device == "cpu" else f"is on {candidate.device}. Load it on the CPU"

    def numbers(self, model: Callable[[], nn.Module]) -> int:
        """Those of a second copy of the weights, of which narrow ones take a fraction."""
        weights = sum(parameter.numel() for parameter in model().parameters())
        return int(weights * {"f32": 1.0, "bf16": 1.0, "int8": 0.25, "int4": 0.16}[self.weights])

    def view(self, model: nn.Module, programs: Programs) -> nn.Module:
        """A view whose sites call converted models."""
        return view(model, {path: at_site(path, self, programs) for path in sites(model)})

    # ------------------------------------------------------------------------------------------ programs
    def unfit(self, call: Call, layer: nn.Module, found: Changes) -> str:
        """Why torch must run this call; "" if OpenVINO can."""
        if any(tensor.device.type != "cpu" for tensor in call.tensors):
            return "its tensors are not on the CPU"
        attached = attached_to(layer)
        if found.patched and (attached is None or attached.adapted.varies):
            return "the strengths of its adapters differ between steps or prompts"
        return ""

    def program_key(self, call: Call, layer: nn.Module, found: Changes) -> Hashable:
        """The adapters, and the shapes, or their numbers of axes."""
        attached = attached_to(layer) if found.patched else None
        axes = tuple(map(len, call.shapes))
        return None if attached is None else attached.adapted, call.shapes if self.shapes == "fixed" else axes

    def program(self, call: Call, layer: nn.Module, plain: nn.Module, at: Site) -> Program:
        """A converted model: read from the cache, or converted now."""
        file = self._file(call, layer, at)
        found = None if file is None else read_ir(file)
        if found is not None:
            at.programs.report.read += 1
            model, form = found
        else:
            model, form = self._converted(call, layer, plain, at)
            at.programs.report.made += 1
            if file is not None:
                write_ir(model, form, file)
        return Converted(self._compiled(model), form, class_of_output(at.kind), call.tensors[0].dtype)

    def _file(self, call: Call, layer: nn.Module, at: Site) -> Path | None:
        """The folder of the converted model in the cache; None without a cache, or without a content key."""
        if self.cache is None or (content := at.programs.content()) is None:
            return None
        attached = attached_to(layer)
        adapters = "" if attached is None else attached.adapted.content_key()
        if adapters is None:
            return None
        shapes = call.shapes if self.shapes == "fixed" else tuple(map(len, call.shapes))
        call_text = f"{call.rest} {call.dtypes} {shapes}"
        return Path(self.cache) / digest(self.key, content, adapters, at.path, call_text, code_key(at.kind))

    def _converted(self, call: Call, layer: nn.Module, plain: nn.Module, at: Site) -> tuple[Any, Layout]:
        if (attached := attached_to(layer)) is not None:
            plain = merged_view(shallow_copy(attached.model, at.kind), attached.patches.layers, attached.adapted)
        flat = _Flat(deepcopy(plain).float() if _is_half(plain) else plain, call.rest)
        examples = tuple(_widened(tensor) for tensor in call.tensors)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tracing warns at each check of a shape
                model = openvino().convert_model(traced(flat, examples))
        except Exception as error:  # whatever a converter raises: torch can run the model
            raise Unmade(f"OpenVINO cannot convert it: {str(error).splitlines()[0]}") from error
        if self.shapes == "fixed":
            model.reshape({port: list(shape) for port, shape in zip(model.inputs, call.shapes, strict=True)})
        return _narrowed(model, self.weights), flat.form

    def _compiled(self, model: Any) -> Any:
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.weights == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()} if self.device == "CPU" else {}
        return core().compile_model(model, self.device, {**hints, **threads})


class Converted:
    """A converted model that is called like the forward that it was made of."""

    def __init__(self, compiled: Any, form: Layout, made: Callable[..., Any], dtype: torch.dtype) -> None:
        self._compiled, self._form, self._made = compiled, form, made
        self._dtype = dtype if dtype in (torch.bfloat16, torch.float16) else None
        self._free: list[Any] = []
        self._tensor: Any = openvino().Tensor

    def __call__(self, tensors: Sequence[Tensor], layer: nn.Module) -> Any:
        """The output for these tensors."""
        arrays = [self._tensor(_widened(t).detach().contiguous().numpy(), shared_memory=True) for t in tensors]
        try:
            request = self._free.pop()  # each thread has one alone
        except IndexError:
            request = self._compiled.create_infer_request()
        found = [torch.from_numpy(array) for array in request.infer(arrays).values()]  # copies
        self._free.append(request)
        found = [t.to(self._dtype) if self._dtype and t.is_floating_point() else t for t in found]
        return unflattened(found, self._form, self._made)


class _Flat(nn.Module):
    """A module that takes and returns tensors alone, for the converter."""

    def __init__(self, layer: nn.Module, rest: Rest) -> None:
        super().__init__()
        self.layer, self.rest = layer, rest
        self.form: Layout = None

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        args, named = self.rest.arguments(tensors)
        outputs, self.form = flattened(self.layer(*args, **named))
        return tuple(outputs)


def _narrowed(model: Any, weights: Weights) -> Any:  # an openvino.Model
    """The converted model with weights in 8 or 4 bits, by groups of 128 numbers, or fewer where 128 does not divide."""
    if weights not in ("int8", "int4"):
        return model
    package = nncf()
    if weights == "int8":
        return package.compress_weights(model, mode=package.CompressWeightsMode.INT8_ASYM)
    fewer = package.AdvancedCompressionParameters(group_size_fallback_mode=package.GroupSizeFallbackMode.ADJUST)
    return package.compress_weights(model, mode=package.CompressWeightsMode.INT4_SYM, advanced_parameters=fewer)


def _widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is narrower: numpy has no bfloat16."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _is_half(module: nn.Module) -> bool:
    return any(p.dtype in (torch.bfloat16, torch.float16) for p in module.parameters())
