"""The memory that a component will take, before it is loaded: its loading is done with tensors without values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError, LoadError
from ..loading.component import fetch, is_model, quantization_for, weight_names_of
from ..loading.component_files import is_of_transformers, refuse_code
from ..loading.from_transformers import model_of_config
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
from ..storage.building import on_meta
from ..storage.hub import Repo
from ..storage.tensors import JoinedTensors, SafetensorFiles, Shape, Tensors
from .offload import NO_OFFLOAD, Offload, prepare_weights, streaming_bytes
from .tensors import tensors_of as model_tensors


class Estimate(NamedTuple):
    """The memory of a component, in bytes.

    bytes: its weights. loading_bytes: what loading takes beside them. streaming_bytes: what is on its device at once,
    if it is streamed.
    """

    bytes: int = 0
    loading_bytes: int = 0
    streaming_bytes: int = 0


_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "U64": torch.uint64,
    "I32": torch.int32, "U32": torch.uint32, "I16": torch.int16, "U16": torch.uint16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""The dtypes of a safetensors header, by name."""


class MetaTensors:
    """The tensors of files without their values: on the meta device, with the shapes and dtypes of the headers."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each tensor, by name."""
        return self._tensors.shapes()

    def where(self, name: str) -> str:
        """The file of a tensor, for error texts."""
        return self._tensors.where(name)

    def read(self, name: str) -> Any:  # a Tensor, or a Packed that is used like one
        """A tensor without values."""
        return _meta_tensor(self._tensors, name)


def _meta_tensor(tensors: Tensors, name: str) -> Any:  # a Tensor, or a Packed
    match tensors:
        case SafetensorFiles():
            stored = str(tensors._of[name][1].get_slice(name).get_dtype())
            return torch.empty(tensors.shapes()[name], dtype=_DTYPES.get(stored, torch.uint8), device="meta")
        case GGUFFile():
            entry = tensors.tensors[name]
            if entry.kind.dtype is not None:
                return torch.empty(entry.shape, dtype=entry.kind.dtype, device="meta")
            blocks = torch.empty(entry.nbytes // entry.kind.bytes, entry.kind.bytes, dtype=torch.uint8, device="meta")
            return Packed(entry.kind, blocks, entry.shape)
        case JoinedTensors():
            return _meta_tensor(tensors._of[name], name)
        case _:  # pickles, mapped
            return tensors.read(name).to("meta")


class OwnTensors:
    """The tensors that a model needs, without their values, in place of files that are not on this machine."""

    def __init__(self, model: nn.Module) -> None:
        self._tensors = model.state_dict()

    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each tensor, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def where(self, name: str) -> str:
        """The file of a tensor, for error texts."""
        return "the config"

    def read(self, name: str) -> Tensor:
        """A tensor without values."""
        return self._tensors[name].to("meta")


def has_weights(spec: ComponentSpec) -> bool:
    """Whether the weights of a model are on this machine. Reads no weights."""
    if spec.pretrained_model_name_or_path is None or spec.file is not None:
        return True
    try:
        names, location = weight_names_of(spec), spec.location
    except LoadError:
        return False
    return not isinstance(location, Repo) or all(location.has(spec.subfolder, name) for name in names)


def model_without_files(spec: ComponentSpec, dtype: torch.dtype) -> nn.Module:
    """The model of a spec on the meta device in `dtype`, by its config alone, not quantized.

    Raises:
        LoadError: no config, or a class of transformers whose files are not on this machine.
        ConfigError: a config that does not fit.
    """
    cls = spec.type
    if is_of_transformers(cls):
        return _of_theirs_unquantized(spec, cls, dtype)
    with on_meta():
        model = cls.from_config(spec.read_config())
    model.load(OwnTensors(model), dtype=dtype, device="meta")
    return model


def estimate(spec: ComponentSpec, dtype: str, offload: Offload = NO_OFFLOAD, *, fetches: bool = True) -> Estimate:
    """The memory that a component will take in `dtype`, kept as `offload` says.

    Reads headers; the files of a repo are fetched, unless `fetches` is False: then the config has to do. Zero for a
    component without weights, and for one that cannot be loaded: its loading will raise the error. The estimate of a
    model of ours is exact, with two exceptions: a torchao config that has no short name, and torchao's int4. There it
    is an upper bound.
    """
    try:
        cls = spec.type
        if not is_model(cls):
            return Estimate()
        compute: torch.dtype = getattr(torch, dtype)
        by_files = fetches or has_weights(spec)
        if is_of_transformers(cls):
            if not by_files:
                return Estimate()
            made = _of_theirs(spec, cls, compute)
        else:
            made = _of_ours(spec, cls, compute, by_files=by_files)
        if isinstance(made, Estimate):
            return made
        read = model_bytes(made)
        prepare_weights(made, offload, "cpu")
        stored = model_bytes(made)
        streamed = streaming_bytes(made, offload, dtype) if offload.streams else 0
        return Estimate(stored, read - stored, streamed)
    except (LoadError, ConfigError):
        return Estimate()


def estimated_bytes(spec: ComponentSpec, dtype: str) -> int:
    """The bytes of a component's weights in `dtype`; see `estimate`."""
    return estimate(spec, dtype).bytes


def _of_ours(
    spec: ComponentSpec, kind: Any, dtype: torch.dtype, *, by_files: bool
) -> Estimate | nn.Module:  # kind: a class of ours
    with on_meta():
        model = kind.from_config(spec.read_config())
    if spec.pretrained_model_name_or_path is None:
        return model.to("meta", dtype)
    if spec.file is not None:
        found = tensors_in(spec, model)
        assert isinstance(found.tensors, WholeTensors)
        found.tensors.tensors = MetaTensors(found.tensors.tensors)
    elif not by_files:
        found = OwnTensors(model)
    else:
        files = [fetch(spec) / name for name in weight_names_of(spec)]
        found = MetaTensors(open_tensors(files, allow_pickle=spec.access.allow_pickle))
    if (quantization := quantization_for(spec)) is None:
        model.load(found, dtype=dtype, device="meta")
        return model
    return _packed(model, found, quantization, dtype)


def _packed(model: Any, tensors: Tensors, quantization: Quantization, dtype: torch.dtype) -> Estimate:
    sizes = PackedSizes()
    loading = Loading(model, tensors, quantization, dtype, torch.device("meta"), model.stays_float32, sizes.method)
    loading.find(model.published_name)
    loading.choose()
    loading.fill()
    return Estimate(model_bytes(model), sizes.working_bytes)


def _of_theirs(spec: ComponentSpec, kind: Any, dtype: torch.dtype) -> Estimate | nn.Module:
    """The empty model of a class of transformers, or the estimate by the files if these are quantized."""
    folder = fetch(spec)
    refuse_code(spec.location, spec.subfolder)
    stored = SafetensorFiles([folder / name for name in weight_names_of(spec)])
    if "quantization_config" in spec.read_config():
        tensors = MetaTensors(stored)
        return Estimate(sum(_bytes_in(dtype, name, tensors.read(name)) for name in tensors.shapes()))
    model = _model_of_theirs(spec, kind, folder, stored, dtype)
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
    return Estimate(model_bytes(model), sizes.working_bytes)


def _of_theirs_unquantized(spec: ComponentSpec, kind: Any, dtype: torch.dtype) -> nn.Module:
    if not has_weights(spec):
        raise LoadError(f"{spec}: its size is known from its files alone, and they are not on this machine.")
    folder = fetch(spec)
    return _model_of_theirs(spec, kind, folder, SafetensorFiles([folder / n for n in weight_names_of(spec)]), dtype)


def _model_of_theirs(
    spec: ComponentSpec, kind: Any, folder: Path, stored: SafetensorFiles, dtype: torch.dtype
) -> Any:  # kind: a class of transformers, and a model of it
    with torch.device("meta"):
        return model_of_config(kind, spec, folder, stored).to(dtype)


def _bytes_in(dtype: torch.dtype, name: str, tensor: Tensor) -> int:
    """The bytes of a tensor in `dtype`. The scales of quantized files keep their dtype."""
    kind = dtype if tensor.is_floating_point() and name.endswith((".weight", ".bias")) else tensor.dtype
    return tensor.numel() * kind.itemsize


def model_bytes(model: nn.Module) -> int:
    """The bytes of a model's tensors, with or without values."""
    return sum(t.nbytes for t in {id(t): t for t in model_tensors(model)}.values())
