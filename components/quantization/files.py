"""Quantized weights in a component's folder: the quantization in its `config.json`, and saving as published."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...graph.errors import ConfigError, LoadError
from ...graph.saving import Draft
from ..storage.tensors import SafetensorFiles, Tensors
from ..storage.weights import save_weights, weight_files
from .config import (
    GGUFQuantizationConfig,
    MixedQuantization,
    Quantization,
    QuantoConfig,
    TorchAoConfig,
    read_quantization,
)
from .gguf.layers import packed_in
from .gguf.packed import Packed
from .gguf.reader import GGUFFile
from .gguf.writer import write_gguf
from .method import completed


def quantization_of(config: Mapping[str, Any], argument: object = None) -> Quantization | None:  # JSON values
    """The quantization of a component: the argument, else that of its files.

    Args:
        config: its `config.json`.
        argument: `quantization=` of the user. For files that are quantized already, it may only change how layers
            compute.

    Raises:
        ConfigError: one of the two cannot be read.
        LoadError: the argument needs weights of another form than the files have.
    """
    wanted, stored = read_quantization(argument), read_quantization(config.get("quantization_config"))
    if wanted is None or stored is None:
        return wanted or stored
    if wanted.stored_as != stored.stored_as:
        raise LoadError(f"The weights are stored as {stored}, not as {wanted}. Use weights that are not quantized.")
    return wanted


def for_transformers(argument: object, device: str) -> dict[str, Any]:
    """Keywords of transformers' from_pretrained for a quantization. (It reads that of a folder by itself.)

    ConfigError for a method that transformers does not have.
    """
    if (config := read_quantization(argument)) is None:
        return {}
    data = config.to_json()
    if isinstance(config, MixedQuantization | GGUFQuantizationConfig):
        raise ConfigError(f"quantization: transformers has no {config.quant_method!r}. Use bitsandbytes or torchao.")
    if isinstance(config, QuantoConfig):
        data["weights"] = data.pop("weights_dtype")
    if isinstance(config, TorchAoConfig):
        data |= completed(config).to_json()
    auto: Any = import_module("transformers.quantizers").AutoQuantizationConfig
    return {"quantization_config": auto.from_dict(data), "device_map": {"": device}}


def weights_in(folder: Path, quantization: Quantization | None, *, stem: str, variant: str | None = None) -> Tensors:
    """The weights of a component's folder: safetensors files, or one GGUF file."""
    file = folder / gguf_name(stem, variant)
    if isinstance(quantization, GGUFQuantizationConfig) and file.is_file():
        return GGUFFile(file)
    return SafetensorFiles(weight_files(folder, stem=stem, variant=variant))


def gguf_name(stem: str, variant: str | None = None) -> str:
    """The name of a component's GGUF file."""
    return f"{stem}.{variant}.gguf" if variant else f"{stem}.gguf"


def save_quantized(
    model: nn.Module,
    draft: Draft,
    *,
    stem: str,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
) -> None:
    """Write the weights of a quantized model into a draft, in the form that its package and diffusers read."""
    state = model.state_dict()
    if packed := packed_in(model):
        tensors: dict[str, Tensor | Packed] = {}
        for name, tensor in state.items():
            path, _, leaf = name.rpartition(".")
            is_packed = path in packed and leaf == "blocks"
            tensors |= {f"{path}.weight": packed[path]} if is_packed else {name: tensor}
        write_gguf(draft.path / gguf_name(stem, variant), tensors)
        return
    metadata: dict[str, str] = {}
    if any(type(tensor).__module__.startswith("torchao.") for tensor in state.values()):
        from .with_torchao import flattened  # imports torchao, which is installed

        state, metadata = flattened(state)
    unshared = _without_shared_memory(state)
    save_weights(unshared, draft, stem=stem, variant=variant, max_shard_size=max_shard_size, metadata=metadata)


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that share memory, which safetensors refuses. Layers may share a table of levels."""
    seen: set[tuple[int, int]] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.nbytes)
        own[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return own
