"""Quantized weights in a component's folder: what `config.json` says of them, and writing them as published."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...graph.errors import ConfigError, LoadError
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


def quantization_of(config: Mapping[str, Any], asked: object = None) -> Quantization | None:  # JSON values
    """The quantization that holds for a component: that of its files, else the one that is asked for.

    `config` is its `config.json`. Files that are quantized already can be asked for in their own kind only, with other
    settings of how layers compute.

    Raises:
        ConfigError: a `quantization_config` that cannot be read, here or there.
        LoadError: another kind is asked for than the files have.
    """
    wanted, there = read_quantization(asked), read_quantization(config.get("quantization_config"))
    if wanted is None or there is None:
        return wanted or there
    if wanted.stored_as != there.stored_as:
        raise LoadError(f"The weights are stored as {there}, and {wanted} was asked for. Take weights that are plain.")
    return wanted


def for_transformers(asked: object, device: str) -> dict[str, Any]:
    """What transformers' own from_pretrained takes for a quantization; it reads that of a folder by itself.

    ConfigError for a kind that it does not have.
    """
    if (found := read_quantization(asked)) is None:
        return {}
    data = found.to_json()
    if isinstance(found, MixedQuantization | GGUFQuantizationConfig):
        raise ConfigError(f"quantization: transformers has no {found.quant_method!r}. Take bitsandbytes or torchao.")
    if isinstance(found, QuantoConfig):
        data["weights"] = data.pop("weights_dtype")
    if isinstance(found, TorchAoConfig):
        data |= completed(found).to_json()
    auto: Any = import_module("transformers.quantizers").AutoQuantizationConfig
    return {"quantization_config": auto.from_dict(data), "device_map": {"": device}}


def weights_in(folder: Path, quantization: Quantization | None, *, stem: str, variant: str | None = None) -> Tensors:
    """Where the weights of a component's folder are read from: safetensors, or one GGUF file."""
    file = folder / gguf_name(stem, variant)
    if isinstance(quantization, GGUFQuantizationConfig) and file.is_file():
        return GGUFFile(file)
    return SafetensorFiles(weight_files(folder, stem=stem, variant=variant))


def gguf_name(stem: str, variant: str | None = None) -> str:
    """What the GGUF file of a component is called."""
    return f"{stem}.{variant}.gguf" if variant else f"{stem}.gguf"


def save_quantized(
    model: nn.Module,
    folder: Path,
    *,
    stem: str,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
) -> None:
    """Write the weights of a quantized model as they are held, and as its package and diffusers read them."""
    state = model.state_dict()
    if packed := packed_in(model):
        tensors: dict[str, Tensor | Packed] = {}
        for name, tensor in state.items():
            path, _, leaf = name.rpartition(".")
            held = path in packed and leaf == "blocks"
            tensors |= {f"{path}.weight": packed[path]} if held else {name: tensor}
        write_gguf(folder / gguf_name(stem, variant), tensors)
        return
    told: dict[str, str] = {}
    if any(type(tensor).__module__.startswith("torchao.") for tensor in state.values()):
        from .with_torchao import flattened  # it imports torchao, which is there

        state, told = flattened(state)
    save_weights(_apart(state), folder, stem=stem, variant=variant, max_shard_size=max_shard_size, metadata=told)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with no memory in common, which safetensors refuses: layers may share a table of levels."""
    seen: set[tuple[int, int]] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.nbytes)
        own[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return own
