"""What a component will take, told before it is loaded: its loading is done with tensors that have no values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError, LoadError
from ..loading.component import fetch, is_model, is_of_transformers, quantization_for, weight_names_of
from ..loading.open_tensors import open_tensors
from ..loading.single_file.checkpoint import tensors_in
from ..loading.single_file.whole_tensors import WholeTensors
from ..quantization.config import Quantization, read_quantization
from ..quantization.gguf.packed import Packed
from ..quantization.gguf.reader import GGUFFile
from ..quantization.load import Loading
from ..quantization.packed_sizes import PackedSizes
from ..quantization.paths import named
from ..spec import ComponentSpec
from ..storage.tensors import JoinedTensors, SafetensorFiles, Shape, Tensors
from ..storage.weights import on_meta
from .offload import AS_A_WHOLE, Offload, store, window
from .sizes import tensors_of as held_by


class Expected(NamedTuple):
    """What a component takes once it is loaded.

    bytes: its weights. passing: what takes room beside them while it is loaded. window: what of it is on its device at
    once, if it streams.
    """

    bytes: int = 0
    passing: int = 0
    window: int = 0


_STORED: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "U64": torch.uint64,
    "I32": torch.int32, "U32": torch.uint32, "I16": torch.int16, "U16": torch.uint16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""The names of a safetensors header."""


class Unread:
    """The tensors of files without their values: on the meta device, by what headers say."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def shapes(self) -> Mapping[str, Shape]:
        return self._tensors.shapes()

    def where(self, name: str) -> str:
        return self._tensors.where(name)

    def read(self, name: str) -> Any:  # a Tensor, or a Packed that does alike
        return _unread(self._tensors, name)


def _unread(tensors: Tensors, name: str) -> Any:  # a Tensor, or a Packed
    match tensors:
        case SafetensorFiles():
            stored = str(tensors._of[name][1].get_slice(name).get_dtype())
            return torch.empty(tensors.shapes()[name], dtype=_STORED.get(stored, torch.uint8), device="meta")
        case GGUFFile():
            told = tensors.tensors[name]
            if told.kind.dtype is not None:
                return torch.empty(told.shape, dtype=told.kind.dtype, device="meta")
            blocks = torch.empty(told.nbytes // told.kind.bytes, told.kind.bytes, dtype=torch.uint8, device="meta")
            return Packed(told.kind, blocks, told.shape)
        case JoinedTensors():
            return _unread(tensors._of[name], name)
        case _:  # pickles, mapped
            return tensors.read(name).to("meta")


def expected(spec: ComponentSpec, dtype: str, offload: Offload = AS_A_WHOLE) -> Expected:
    """What a component will take in `dtype`, kept so. Reads headers; files of a repo are fetched. Nothing for what has
    no weights, and for what cannot be loaded: the loader will say why.

    Of a model of ours it is exact, but for quantizations by a config of torchao's that has no short name, and its
    int4: there it is the most that it can be.
    """
    try:
        kind = spec.type
        if not is_model(kind):
            return Expected()
        wide: torch.dtype = getattr(torch, dtype)
        told = _of_theirs(spec, kind, wide) if is_of_transformers(kind) else _of_ours(spec, kind, wide)
        if isinstance(told, Expected):
            return told
        before = weight_of(told)
        store(told, offload, "cpu")
        kept = weight_of(told)
        return Expected(kept, before - kept, window(told, offload, dtype) if offload.streams else 0)
    except (LoadError, ConfigError):
        return Expected()


def expected_bytes(spec: ComponentSpec, dtype: str) -> int:
    """The bytes of a component once it is loaded in `dtype`; see `expected`."""
    return expected(spec, dtype).bytes


def _of_ours(spec: ComponentSpec, kind: Any, dtype: torch.dtype) -> Expected | nn.Module:  # kind: a class of ours
    with on_meta():
        model = kind.from_config(spec.read_config())
    if spec.pretrained_model_name_or_path is None:
        return model.to("meta", dtype)
    if spec.file is not None:
        found = tensors_in(spec, model)
        assert isinstance(found.tensors, WholeTensors)
        found.tensors.tensors = Unread(found.tensors.tensors)
    else:
        files = [fetch(spec) / name for name in weight_names_of(spec)]
        found = Unread(open_tensors(files, allow_pickle=spec.access.allow_pickle))
    if (quantization := quantization_for(spec)) is None:
        model.load(found, dtype=dtype, device="meta")
        return model
    return _packed(model, found, quantization, dtype)


def _packed(model: Any, tensors: Tensors, quantization: Quantization, dtype: torch.dtype) -> Expected:
    sizes = PackedSizes()
    loading = Loading(model, tensors, quantization, dtype, torch.device("meta"), model.stays_float32, sizes.method)
    loading.find(model.published_name)
    loading.choose()
    loading.fill()
    return Expected(weight_of(model), sizes.working_bytes)


def _of_theirs(spec: ComponentSpec, kind: Any, dtype: torch.dtype) -> Expected | nn.Module:
    """By its class, which is one of transformers; where the files are quantized, by them."""
    folder = fetch(spec)
    if "quantization_config" in spec.read_config():
        unread = Unread(SafetensorFiles([folder / name for name in weight_names_of(spec)]))
        return Expected(sum(_cast(name, unread.read(name), dtype) for name in unread.shapes()))
    try:
        with torch.device("meta"):
            model = kind(kind.config_class.from_pretrained(str(folder), local_files_only=True)).to(dtype)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise LoadError(f"{spec}: {error}") from error
    if (quantization := read_quantization(spec.quantization)) is None:
        return model
    sizes = PackedSizes()
    method, head = sizes.method(quantization), model.get_output_embeddings()
    for path, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and layer is not head and not named(quantization.excluded, path):
            bias, layer._parameters["bias"] = layer._parameters["bias"], None
            made = method.quantize(layer)
            made._parameters["bias"] = bias
            model.set_submodule(path, made)
    return Expected(weight_of(model), sizes.working_bytes)


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> int:
    """The bytes of a tensor in `dtype`. Scales of quantized files are not cast."""
    kind = dtype if tensor.is_floating_point() and name.endswith((".weight", ".bias")) else tensor.dtype
    return tensor.numel() * kind.itemsize


def weight_of(model: nn.Module) -> int:
    """The bytes of a model's tensors, those without values too."""
    return sum(t.nbytes for t in {id(t): t for t in held_by(model)}.values())
