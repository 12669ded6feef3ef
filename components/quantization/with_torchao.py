"""torchao: a linear layer keeps its class, and its weight becomes a tensor class of torchao."""

import json
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from .config import Quantization, TorchAoConfig
from .method import Method

_ON_CPU = "on the CPU use 'int8_weight_only', 'nf4' or a GGUF file"


class TorchAo(Method):
    """The method of a `TorchAoConfig`."""

    def __init__(self, config: TorchAoConfig) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own deprecations
            self.api: Any = import_module("torchao.quantization")  # untyped
            self.core: Any = import_module("torchao.core.config")
        self.kind = config.kind
        self.config = self._made(config.quant_type)

    def _made(self, data: Mapping[str, Any]) -> Any:  # one of torchao's config classes
        own = getattr(self.api, str(data["_type"]), None)
        if not (isinstance(own, type) and issubclass(own, self.core.AOBaseConfig)):
            raise ConfigError(f"TorchAoConfig: torchao has no config {data['_type']!r}.")
        if "_version" in data:
            return self.core.config_from_dict(dict(data))
        # A short name. The default int4 packing needs another package; torch computes this one.
        packing = {"int4_packing_format": "tile_packed_to_4d"} if self.kind == "Int4WeightOnlyConfig" else {}
        return own(**{**packing, **cast("Mapping[str, Any]", data.get("_data") or {})})

    def completed(self, config: Quantization) -> Quantization:
        """The config with all settings of torchao's config object."""
        return config.model_copy(update={"quant_type": self.core.config_to_dict(self.config)})

    def problem(self, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> str | None:
        """See `Method.problem`."""
        rows, width = layer.weight.shape
        if self.kind == "Int4WeightOnlyConfig":
            group = self.config.group_size
            if device.type != "cuda":
                return f"{self.kind} computes on CUDA, not on {device}; {_ON_CPU}"
            if dtype != torch.bfloat16:
                return f"{self.kind} needs dtype bfloat16, not {dtype}"
            return f"rows of {width} are no multiple of the group size {group}" if width % group else None
        if self.kind == "Float8DynamicActivationFloat8WeightConfig":
            if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
                return f"{self.kind} computes on GPUs with float8 (compute capability 8.9), not on {device}; {_ON_CPU}"
            return f"{rows} x {width} are no multiples of 16" if rows % 16 or width % 16 else None
        return None

    def quantize(self, layer: nn.Linear) -> nn.Module:
        """See `Method.quantize`."""
        before = type(layer.weight.data)
        self.api.quantize_(layer, self.config)
        if type(layer.weight.data) is before:  # it skips layers that it cannot quantize
            raise ValueError(f"torchao does not quantize a {list(layer.weight.shape)} layer in {layer.weight.dtype}")
        return layer

    def restore(self, layer: nn.Linear, parts: Mapping[str, Tensor], about: str, device: torch.device) -> nn.Module:
        """See `Method.restore`."""
        support: Any = import_module("torchao.prototype.safetensors.safetensors_support")  # its reader of files
        metadata = {"m.weight": about, "tensor_names": json.dumps(["m.weight"])}
        stored = {f"m.{name}": tensor.to(device) for name, tensor in parts.items() if name.startswith("_weight_")}
        found, _ = support.unflatten_tensor_state_dict(stored, metadata)
        weight = cast("Tensor", found["m.weight"])
        if weight.shape != layer.weight.shape:
            raise ValueError(f"the weight needs the shape {list(layer.weight.shape)}, got {list(weight.shape)}")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer


def flattened(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata for a safetensors file, in the form of torchao."""
    support: Any = import_module("torchao.prototype.safetensors.safetensors_support")
    plain = {
        name: tensor if _of_torchao(tensor) else tensor.detach().as_subclass(torch.Tensor)
        for name, tensor in tensors.items()
    }
    return support.flatten_tensor_state_dict(plain)


def _of_torchao(tensor: Tensor) -> bool:
    return type(tensor).__module__.startswith("torchao.")
