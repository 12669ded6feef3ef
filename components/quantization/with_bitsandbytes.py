"""Layers of bitsandbytes: its classes, kernels and files, with a forward that changes no state.

The package's own layers repack their weight, cast their bias and store results at each call. Here several threads share
a component, so a call must not change it.
"""

import logging
from collections.abc import Mapping
from copy import copy
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import BitsAndBytesConfig
from .method import Method


class _Steady4bit:
    """The forward of a layer in nf4 or fp4. `compute_dtype=None` computes in the dtype of the input."""

    def forward(self: Any, x: Tensor) -> Tensor:  # Any: the package is untyped
        dtype = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        state = self.weight.quant_state
        if self.in_features % state.blocksize and x.device.type == "cpu":
            # The CPU kernel of 0.50 assumes that each row begins a new block; its results are off by a quarter.
            flat = copy(state)
            flat.shape = (1, self.in_features * self.out_features)
            weight = _package().functional.dequantize_4bit(self.weight.data, flat).view(state.shape)
            return F.linear(x.to(dtype), weight.to(dtype), bias).to(x.dtype)
        return _package().matmul_4bit(x.to(dtype), self.weight.t(), quant_state=state, bias=bias).to(x.dtype)


class _Steady8bit:
    """The forward of a layer in int8, with outliers among the inputs computed in half precision."""

    def forward(self: Any, x: Tensor) -> Tensor:  # Any: the package is untyped
        bias = None if self.bias is None else self.bias.to(x.dtype)
        state = _package().MatmulLtState()
        state.CB, state.SCB, state.threshold = self.weight.data, self.weight.SCB, self.state.threshold
        state.has_fp16_weights, state.is_training = False, False
        return _package().matmul(x, self.weight, bias=bias, state=state)


@cache
def _package() -> Any:  # untyped
    # It warns at each call that inputs are cast to float16, as LLM.int8 always does.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return import_module("bitsandbytes")


@cache
def _layer(name: str, steady: type) -> Any:  # a class of the package with another forward
    return type(name, (steady, getattr(_package().nn, name)), {})


class BitsAndBytes(Method):
    """The method of a `BitsAndBytesConfig`."""

    def __init__(self, config: BitsAndBytesConfig) -> None:
        self.config = config

    def problem(self, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> str | None:
        """See `Method.problem`."""
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return f"bitsandbytes quantizes float32, float16 and bfloat16, not {dtype}"
        return None

    def quantize(self, layer: nn.Linear) -> nn.Module:
        """See `Method.quantize`."""
        made = self._empty(layer)
        weight, device = layer.weight.data, layer.weight.device
        # Both kinds of parameter quantize at their first move, even to the device that they are on.
        if self.config.load_in_4bit:
            held = _package().nn.Params4bit(weight, requires_grad=False, **self._settings())
        else:
            held = _package().nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        made.weight = held.to(device)
        made.bias = layer.bias
        return made

    def restore(self, layer: nn.Linear, parts: Mapping[str, Tensor], about: str, device: torch.device) -> nn.Module:
        """See `Method.restore`."""
        made = self._empty(layer)
        weight = parts["weight"]
        if self.config.load_in_4bit:
            stats = {name: tensor for name, tensor in parts.items() if name.startswith("weight.")}
            held = _package().nn.Params4bit.from_prequantized(weight, stats, requires_grad=False, device=device)
            _check_4bit(held, layer)
        else:
            scales = parts["SCB"]
            if weight.dtype != torch.int8 or weight.shape != layer.weight.shape or scales.shape != weight.shape[:1]:
                raise ValueError(f"weight is {weight.dtype} {list(weight.shape)} with {list(scales.shape)} scales")
            held = _package().nn.Int8Params(weight.to(device), requires_grad=False, has_fp16_weights=False)
            held.CB, held.SCB = held.data, scales.to(device)
        made.weight = held
        return made

    def _settings(self) -> dict[str, Any]:
        config = self.config
        return {"compress_statistics": config.bnb_4bit_use_double_quant, "quant_type": config.bnb_4bit_quant_type}

    def _empty(self, layer: nn.Linear) -> Any:  # a layer of an untyped package
        sizes = (layer.in_features, layer.out_features, layer._parameters["bias"] is not None)
        if self.config.load_in_4bit:
            compute = self.config.bnb_4bit_compute_dtype
            dtype = None if compute is None else getattr(torch, compute)
            return _layer("Linear4bit", _Steady4bit)(*sizes, compute_dtype=dtype, device="meta", **self._settings())
        how = {"has_fp16_weights": False, "threshold": self.config.llm_int8_threshold}
        return _layer("Linear8bitLt", _Steady8bit)(*sizes, **how, device="meta")


def _check_4bit(weight: Any, layer: nn.Linear) -> None:  # a parameter of the package
    """Compare the state with the tensors: the kernels read as many bytes as it names."""
    state, count = weight.quant_state, layer.weight.numel()
    scales = -(-count // max(1, state.blocksize))
    sizes = {
        "shape": (tuple(state.shape or ()), tuple(layer.weight.shape)),
        "bytes": (weight.numel() * weight.element_size(), -(-count // 2)),
        "absmax": (state.absmax.numel(), scales),
        "quant_map": (state.code.numel(), 16),
    }
    if state.nested:
        groups = -(-scales // max(1, state.state2.blocksize))
        sizes |= {
            "nested_absmax": (state.state2.absmax.numel(), groups),
            "nested_quant_map": (len(state.state2.code), 256),
        }
    if wrong := [f"{name} needs {wanted}, got {size}" for name, (size, wanted) in sizes.items() if size != wanted]:
        raise ValueError("; ".join(wrong))
