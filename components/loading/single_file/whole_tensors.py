"""Tensors that a file stores as several: a weight in few bits, and beside it what its numbers are made of."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ....graph.errors import LoadError
from ...quantization.four_bit import PARTS, STATE, FourBit, FourBitState
from ...storage.tensors import Shape, Tensors

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_SCALES = (".scale_weight", ".weight_scale")
"""What ends the name of a weight's scale in place of `.weight`: in ComfyUI's files until 2025, and since."""
_BESIDE = (".scale_input", ".input_scale", ".comfy_quant")
"""Likewise, what says how to compute in float8; here weights are computed with in the dtype that is asked for."""
_UNREAD = {
    ".SCB": "bitsandbytes' int8",
    ".weight_scale_2": "NVFP4",
    ".qweight": "GPTQ, AWQ or SVDQuant",
    ".weight_scale_inv": "float8 in blocks",
}
"""How names end by which packings are known that are not read."""


class WholeTensors:
    """The tensors of a file, each whole: float8 weights with their scale applied, and no scales beside them.

    ComfyUI's scaled files have `x.scale_weight` (or `x.weight_scale`) beside `x.weight` in float8: the weight is the
    product, and the scale is one number or one for each row. Weights in bitsandbytes' four bits are told by the state
    beside them, and have the shape that it says. `refused` says of what cannot be read what it is.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        shapes = tensors.shapes()
        self._scales: dict[str, str] = {}
        hidden: set[str] = set()
        for name in shapes:
            for end in (*_SCALES, *_BESIDE):
                if name.endswith(end) and (weight := f"{name.removesuffix(end)}.weight") in shapes:
                    hidden.add(name)
                    if end in _SCALES:
                        self._scales[weight] = name
        self.states: dict[str, FourBitState] = {}
        for name in shapes:
            weight, found, kind = name.partition(STATE)
            if found and weight in shapes:
                self.states[weight] = self._state(name, kind)
                hidden |= {name, *(f"{weight}{end}" for end in PARTS)}
        whole = {weight: state.shape for weight, state in self.states.items()}
        self._shapes = {name: shape for name, shape in shapes.items() if name not in hidden} | whole
        self.refused: Mapping[str, str] = dict(_refused(tensors))

    def shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def four_bit(self) -> Collection[str]:
        """The names of weights in bitsandbytes' four bits; `read` gives a `FourBit` of each."""
        return self.states.keys()

    def _state(self, name: str, kind: str) -> FourBitState:
        try:
            return FourBitState.read(kind, self.tensors.read(name))
        except ValueError as error:
            raise LoadError(f"{self.where(name)}: {name} is damaged: {error}.") from error

    def _four_bit(self, name: str, codes: Tensor) -> FourBit:
        there = self.tensors.shapes()
        parts = {end: self.tensors.read(f"{name}{end}") for end in PARTS if f"{name}{end}" in there}
        try:
            return FourBit(self.states[name], codes, parts)
        except ValueError as error:
            raise LoadError(f"{self.where(name)}: {name} is damaged: {error}.") from error

    def read(self, name: str) -> Any:  # a Tensor, or a FourBit or Packed that is cut and joined like one
        tensor = self.tensors.read(name)
        if name in self.states:
            return self._four_bit(name, tensor)
        if (scale := self._scales.get(name)) is None:
            return tensor
        if tensor.dtype not in _FLOAT8:
            raise LoadError(f"{self.where(name)}: {name} is {tensor.dtype} beside {scale}; wanted float8.")
        factor = self.tensors.read(scale).float()
        if factor.numel() not in (1, tensor.shape[0]):
            raise LoadError(
                f"{self.where(name)}: {scale} is {list(factor.shape)}, and {name} is {list(tensor.shape)}; wanted one "
                "number, or one for each row."
            )
        return tensor.float() * factor.reshape(-1, *[1] * (tensor.ndim - 1))

    def where(self, name: str) -> str:
        return self.tensors.where(name)


def _refused(tensors: Tensors) -> Iterator[tuple[str, str]]:
    """The weights that are packed in a way that is not read, and what it is called."""
    for name in tensors.shapes():
        for end, kind in _UNREAD.items():
            if name.endswith(end):
                yield name, kind
        if name.endswith(".comfy_quant"):
            said = _json(tensors.read(name))
            kind = str(said.get("format")) if isinstance(said, dict) else "a format that its marker does not name"
            if not kind.startswith("float8_e"):
                yield name, kind


def _json(marker: Tensor) -> Any:  # JSON, or None where there is none
    try:
        return json.loads(bytes(cast("list[int]", marker.flatten().to(torch.uint8).tolist())).rstrip(b"\0"))
    except ValueError:
        return None
