"""Weights that a file stores as several tensors: packed codes, with their scales and tables."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ....graph.errors import LoadError
from ...quantization.four_bit import PARTS, STATE, FourBit, FourBitState
from ...storage.tensors import Shape, Tensors, json_in

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_SCALES = (".scale_weight", ".weight_scale")
"""Ends of the names of scales, in place of `.weight`: in ComfyUI's files until 2025, and since then."""
_SETTINGS = (".scale_input", ".input_scale", ".comfy_quant")
"""Ends of the names of settings for computing in float8. They are not used: weights are cast to the model's dtype."""
_UNREAD = {
    ".SCB": "bitsandbytes' int8",
    ".weight_scale_2": "NVFP4",
    ".qweight": "GPTQ, AWQ or SVDQuant",
    ".weight_scale_inv": "float8 in blocks",
}
"""Ends of names that mark packings that cannot be read."""


class WholeTensors:
    """The tensors of a file, with each packed weight as one tensor.

    ComfyUI's scaled files have `x.scale_weight` (or `x.weight_scale`) beside `x.weight` in float8: the weight is the
    product, and the scale is one number or one for each row. Weights in bitsandbytes' four bits have a state tensor,
    which has their shape. `refused` has the packing of each weight that cannot be read.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        shapes = tensors.shapes()
        self._scales: dict[str, str] = {}
        hidden: set[str] = set()
        for name in shapes:
            for end in (*_SCALES, *_SETTINGS):
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
        """The shape of each whole weight, by name."""
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
        names = self.tensors.shapes()
        parts = {end: self.tensors.read(f"{name}{end}") for end in PARTS if f"{name}{end}" in names}
        try:
            return FourBit(self.states[name], codes, parts)
        except ValueError as error:
            raise LoadError(f"{self.where(name)}: {name} is damaged: {error}.") from error

    def read(self, name: str) -> Any:  # a Tensor, or a FourBit or Packed, which is split and joined like one
        """One weight, with its scale applied. LoadError for a damaged state or an unfit scale."""
        tensor = self.tensors.read(name)
        if name in self.states:
            return self._four_bit(name, tensor)
        if (scale := self._scales.get(name)) is None:
            return tensor
        if tensor.dtype not in _FLOAT8:
            raise LoadError(f"{self.where(name)}: {name} has a scale, so it needs to be float8, and is {tensor.dtype}.")
        factor = self.tensors.read(scale).float()
        if factor.numel() not in (1, tensor.shape[0]):
            raise LoadError(
                f"{self.where(name)}: {scale} needs one number, or one for each row of {name} {list(tensor.shape)}, "
                f"and has the shape {list(factor.shape)}."
            )
        return tensor.float() * factor.reshape(-1, *[1] * (tensor.ndim - 1))

    def where(self, name: str) -> str:
        """The file of a tensor."""
        return self.tensors.where(name)


def _refused(tensors: Tensors) -> Iterator[tuple[str, str]]:
    """The weights whose packing cannot be read, with its name."""
    for name in tensors.shapes():
        for end, kind in _UNREAD.items():
            if name.endswith(end):
                yield name, kind
        if name.endswith(".comfy_quant"):
            marker = _json(tensors.read(name))
            kind = str(marker.get("format")) if isinstance(marker, dict) else "a format that its marker does not name"
            if not kind.startswith("float8_e"):
                yield name, kind


def _json(marker: Tensor) -> Any:  # JSON, or None where there is none
    try:
        return json_in(marker)
    except ValueError:
        return None
