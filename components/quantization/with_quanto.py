"""optimum-quanto: layers of its class QLinear."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from .config import QuantoConfig
from .method import Method


class Quanto(Method):
    """The method of a `QuantoConfig`."""

    def __init__(self, config: QuantoConfig) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses deprecated parts of torch
            self.api: Any = import_module("optimum.quanto")  # untyped
        self.type = self.api.qtypes[f"q{config.weights_dtype}"]

    def problem(self, layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> str | None:
        """See `Method.problem`."""
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return f"quanto quantizes float32, float16 and bfloat16, not {dtype}"
        return None

    def quantize(self, layer: nn.Linear) -> nn.Module:
        """See `Method.quantize`."""
        made = self.api.QLinear.from_module(layer, weights=self.type)
        made.freeze()
        return made.requires_grad_(False)

    def restore(self, layer: nn.Linear, parts: Mapping[str, Tensor], about: str, device: torch.device) -> nn.Module:
        """See `Method.restore`."""
        made = self.api.QLinear(
            layer.in_features,
            layer.out_features,
            bias=layer._parameters["bias"] is not None,
            dtype=parts["weight._scale"].dtype,
            device="meta",
            weights=self.type,
        )
        made.load_state_dict({name: tensor.to(device) for name, tensor in parts.items()}, assign=True)
        return made.requires_grad_(False)
