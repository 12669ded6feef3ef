"""Layers that hold their weight packed and decode it for each call."""

from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....graph.errors import LoadError
from .packed import Packed

L = TypeVar("L", bound=nn.Module)


class _PackedWeight(nn.Module):
    """What the packed layers share: the bytes as a buffer, which moves with the model and is never cast.

    `weight` is decoded anew at each reading. So code that reads it works, and what is written to it is lost.
    """

    blocks: Tensor

    def hold(self, packed: Packed, compute_dtype: torch.dtype | None) -> None:
        """Take the weight. `compute_dtype` None computes in the dtype of what comes."""
        self.register_buffer("blocks", packed.blocks)
        self.kind, self.shape, self.compute_dtype = packed.kind, packed.shape, compute_dtype

    @property
    def packed(self) -> Packed:
        """The weight as the file has it."""
        return Packed(self.kind, self.blocks, self.shape)

    @property
    def weight(self) -> Tensor:
        return self.packed.dequantize(self.compute_dtype or self._own_dtype())

    def _own_dtype(self) -> torch.dtype:
        bias = self._parameters.get("bias")
        return torch.float32 if bias is None else bias.dtype

    def _weight_and_bias(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        bias = self._parameters.get("bias")
        return self.packed.dequantize(dtype), None if bias is None else bias.to(dtype)

    def extra_repr(self) -> str:
        return f"{' x '.join(map(str, self.shape))}, {self.kind}, bias={self._parameters.get('bias') is not None}"


# torch declares `weight` as an attribute; here it is one that is made when read.
class GGUFLinear(_PackedWeight, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A linear layer over a packed weight `out in`."""

    def forward(self, input: Tensor) -> Tensor:
        """Unpack the weight and compute as the plain layer does."""
        dtype = self.compute_dtype or input.dtype
        return F.linear(input.to(dtype), *self._weight_and_bias(dtype)).to(input.dtype)


class GGUFConv2d(_PackedWeight, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A convolution over a packed kernel `out in h w`."""

    def forward(self, input: Tensor) -> Tensor:
        """Unpack the weight and compute as the plain layer does."""
        dtype = self.compute_dtype or input.dtype
        return self._conv_forward(input.to(dtype), *self._weight_and_bias(dtype)).to(input.dtype)


class GGUFEmbedding(_PackedWeight, nn.Embedding):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A table of vectors, of which only those that are asked for are decoded, where rows are whole blocks."""

    def forward(self, input: Tensor) -> Tensor:
        """Unpack the weight and compute as the plain layer does."""
        dtype = self.compute_dtype or torch.float32
        if self.shape[-1] % self.kind.values:
            return F.embedding(input, self.weight, self.padding_idx)
        return self.packed.rows(input).to(dtype)


_LAYERS: dict[type[nn.Module], type[_PackedWeight]] = {
    nn.Linear: GGUFLinear,
    nn.Conv2d: GGUFConv2d,
    nn.Embedding: GGUFEmbedding,
}


def holds_packed(layer: nn.Module) -> bool:
    """Whether there is a packed layer for this one; subclasses compute in ways of their own, so there is none."""
    return type(layer) in _LAYERS


def packed_in(model: nn.Module) -> dict[str, Packed]:
    """The packed weights of a model, by the paths of their layers."""
    return {path: layer.packed for path, layer in model.named_modules() if isinstance(layer, _PackedWeight)}


def packed_layer(layer: L, packed: Packed, compute_dtype: torch.dtype | None) -> L:
    """The packed layer that does what `layer` does with another weight.

    `layer` may be on the meta device; its settings and its bias are taken over, its weight is not looked at.

    Raises:
        LoadError: a weight of another shape.
    """
    wanted = tuple(cast("Tensor", layer.weight).shape)
    shape = packed.shape
    if shape != wanted:
        if packed.numel() != layer.weight.numel():  # pyright: ignore[reportCallIssue]  torch: Tensor | Module
            raise LoadError(f"The packed weight is {list(shape)}, and the layer wants {list(wanted)}.")
        packed = packed.reshape(*wanted)  # the kernel of a 1x1 convolution is a matrix
    twin = object.__new__(_LAYERS[type(layer)])
    # torch keeps parameters, buffers and children in dicts: shared, what the twin takes would show in the layer.
    twin.__dict__.update((k, v.copy() if isinstance(v, dict) else v) for k, v in layer.__dict__.items())
    del twin._parameters["weight"]
    twin.hold(packed, compute_dtype)
    return cast("L", twin)
