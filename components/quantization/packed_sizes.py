"""The bytes of quantized layers before they are loaded, computed without the packages that quantize."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .config import BitsAndBytesConfig, Quantization, QuantoConfig, TorchAoConfig
from .method import Method

_NOT_KEPT = ("weight_format",)  # parts of files that a layer does not keep


def _ceil_div(count: int, by: int) -> int:
    return -(-count // by)


@dataclass
class PackedSizes:
    """Replaces the packages while a model is loaded on the meta device: its layers only have the right bytes."""

    working_bytes: int = 0
    """The most memory that packing one layer needs beside the packed form: its weight and temporary tensors."""

    def method(self, config: Quantization) -> Method:
        """A method like that of `method_for` which computes sizes only."""
        return _SizedMethod(config, self)


class _SizedMethod(Method):
    def __init__(self, config: Quantization, sizes: PackedSizes) -> None:
        self.config, self.sizes = config, sizes

    def problem(self, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> str | None:
        return None  # the loader checks it

    def quantize(self, layer: nn.Linear) -> nn.Module:
        weight = layer.weight
        bytes_, working = _forms(self.config)(weight.shape[0], weight.shape[1], weight.dtype.itemsize)
        self.sizes.working_bytes = max(self.sizes.working_bytes, weight.nbytes + int(working * weight.numel()))
        return _module_with({"packed": torch.empty(bytes_, dtype=torch.uint8, device="meta")})

    def restore(self, layer: nn.Linear, parts: Mapping[str, Tensor], about: str, device: torch.device) -> nn.Module:
        kept = {name: t for name, t in parts.items() if "quant_state." not in name and name not in _NOT_KEPT}
        if "weight.nested_absmax" in parts:
            kept["offset"] = torch.empty((), device="meta")  # the mean of the scales, which a file has as text
        return _module_with(kept)


def _module_with(parts: Mapping[str, Tensor]) -> nn.Module:
    made = nn.Module()
    for name, tensor in parts.items():
        made.register_buffer(name.replace(".", "_"), tensor)
    return made


_Form = Callable[[int, int, int], tuple[int, float]]
"""From rows, width and bytes of a number: the packed bytes, and the temporary bytes for each number."""


def _forms(config: Quantization) -> _Form:
    match config:
        case BitsAndBytesConfig(load_in_4bit=True):
            return partial(_four_bits, config.bnb_4bit_use_double_quant)
        case BitsAndBytesConfig():
            return _llm_int8
        case QuantoConfig(weights_dtype="int4" | "int2"):
            return partial(_quanto_groups, 2 if config.weights_dtype == "int4" else 4)
        case QuantoConfig():
            return _quanto_rows
        case TorchAoConfig():
            return _TORCHAO.get(config.kind, _plain)
        case _:
            return _plain


# Temporary bytes were measured by torch's allocations on the CPU, in float32 and bfloat16.
def _four_bits(nested: bool, rows: int, width: int, wide: int) -> tuple[int, float]:
    """A half byte each, a table of 16 levels, a float32 for 64 numbers.

    `nested`: a byte for 64, a float32 for 256 of those, their mean and a table of 256 levels.
    """
    count = rows * width
    scales = _ceil_div(count, 64)
    scaling = scales + 4 * (_ceil_div(scales, 256) + 1 + 256) if nested else 4 * scales
    return _ceil_div(count, 2) + 4 * 16 + scaling, wide


def _llm_int8(rows: int, width: int, wide: int) -> tuple[int, float]:
    """A byte each, a float32 for each row."""
    return rows * (width + 4), 2 + wide


def _quanto_rows(rows: int, width: int, wide: int) -> tuple[int, float]:
    """A byte each, a scale for each row, and one each for input and output, as wide as the weight's numbers."""
    return rows * (width + wide) + 2 * wide, 2 * wide + 1


def _quanto_groups(to_a_byte: int, rows: int, width: int, wide: int) -> tuple[int, float]:
    """Scale and shift for each group, which is 128 numbers or as many fewer as divide a row, else the row."""
    group = 128
    while group > 32 and width % group:
        group -= 32
    if width <= 128 or width % group:
        group = width
    groups = rows * width // group
    return _ceil_div(groups, to_a_byte) * group + 2 * wide * groups + 2 * wide, 8


def _torchao_int8(rows: int, width: int, wide: int) -> tuple[int, float]:
    """A byte each; for each row a float32 and a zero point of a byte."""
    return rows * (width + 5), 7 + wide


def _torchao_float8(rows: int, width: int, wide: int) -> tuple[int, float]:
    """A byte each, a float32 for each row."""
    return rows * (width + 4), 16


def _torchao_int4(rows: int, width: int, wide: int) -> tuple[int, float]:
    """A half byte each and two bfloat16 for each group, of which 32 numbers is the smallest; tiles of 8 by 1024."""
    count = _ceil_div(rows, 8) * 8 * _ceil_div(width, 1024) * 1024
    return count // 2 + 4 * count // 32, 16


def _plain(rows: int, width: int, wide: int) -> tuple[int, float]:
    """An unknown form: at most the bytes of the weight."""
    return rows * width * wide, 16


_TORCHAO: dict[str, _Form] = {
    "Int8WeightOnlyConfig": _torchao_int8,
    "Int8DynamicActivationInt8WeightConfig": _torchao_int8,
    "Float8WeightOnlyConfig": _torchao_float8,
    "Float8DynamicActivationFloat8WeightConfig": _torchao_float8,
    "Int4WeightOnlyConfig": _torchao_int4,
}
