"""Layers whose weight stays packed and is decoded at each call."""

from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....graph.errors import LoadError
from .packed import Packed

L = TypeVar("L", bound=nn.Module)


class _PackedWeight(nn.Module):
    """Base of the packed layers. The bytes are a buffer, which moves with the model and is never cast.

    Each read of `weight` decodes it. Writes to it are lost.
    """

    blocks: Tensor

    def hold(self, packed: Packed, compute_dtype: torch.dtype | None) -> None:
        """Set the weight. `compute_dtype=None` computes in the dtype of the input."""
        self.register_buffer("blocks", packed.blocks)
        self.kind, self.shape, self.compute_dtype = packed.kind, packed.shape, compute_dtype

    @property
    def packed(self) -> Packed:
        """The weight as it is stored in the file."""
        return Packed(self.kind, self.blocks, self.shape)

    @property
    def weight(self) -> Tensor:
        """The decoded weight."""
        return self.packed.dequantize(self.compute_dtype or self._own_dtype())

    def _own_dtype(self) -> torch.dtype:
        bias = self._parameters.get("bias")
        return torch.float32 if bias is None else bias.dtype

    def _weight_and_bias(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        bias = self._parameters.get("bias")
        return self.packed.dequantize(dtype), None if bias is None else bias.to(dtype)

    def extra_repr(self) -> str:
        """The shape and type of the weight, for `repr`."""
        return f"{' x '.join(map(str, self.shape))}, {self.kind}, bias={self._parameters.get('bias') is not None}"


# torch declares `weight` as an attribute; here it is a property.
class GGUFLinear(_PackedWeight, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A linear layer over a packed weight `out in`."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer\'s result in the dtype of the input."""
        dtype = self.compute_dtype or input.dtype
        if input.requires_grad and torch.is_grad_enabled():
            return cast("Tensor", _LinearOfPacked.apply(input.to(dtype), self)).to(input.dtype)
        return F.linear(input.to(dtype), *self._weight_and_bias(dtype)).to(input.dtype)


class _LinearOfPacked(torch.autograd.Function):
    """The output of a packed layer. The backward pass decodes the weight again, so that no decoded one is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: GGUFLinear) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`x W^T + b`."""
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, *layer._weight_and_bias(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`grad W`."""
        return grad @ ctx.layer.packed.dequantize(grad.dtype), None


class GGUFConv2d(_PackedWeight, nn.Conv2d):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A convolution over a packed kernel `out in h w`."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer\'s result in the dtype of the input."""
        dtype = self.compute_dtype or input.dtype
        return self._conv_forward(input.to(dtype), *self._weight_and_bias(dtype)).to(input.dtype)


class GGUFEmbedding(_PackedWeight, nn.Embedding):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An embedding table. Only the needed rows are decoded, if rows are whole blocks."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer\'s result in the dtype of the input."""
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
    """Whether a layer has a packed form. Subclasses compute differently, so they have none."""
    return type(layer) in _LAYERS


def packed_in(model: nn.Module) -> dict[str, Packed]:
    """The packed weights of a model, by the paths of their layers."""
    return {path: layer.packed for path, layer in model.named_modules() if isinstance(layer, _PackedWeight)}


def packed_layer(layer: L, packed: Packed, compute_dtype: torch.dtype | None) -> L:
    """The packed form of a layer, with its settings and bias and another weight.

    Args:
        layer: may be on the meta device. Its weight is not read.
        packed: the weight.
        compute_dtype: None computes in the dtype of the input.

    Raises:
        LoadError: the weight has another shape.
    """
    wanted = tuple(cast("Tensor", layer.weight).shape)
    shape = packed.shape
    if shape != wanted:
        if packed.numel() != layer.weight.numel():  # pyright: ignore[reportCallIssue]  torch: Tensor | Module
            raise LoadError(f"The layer needs a weight of the shape {list(wanted)}, got {list(shape)}.")
        packed = packed.reshape(*wanted)  # the kernel of a 1x1 convolution is a matrix
    twin = object.__new__(_LAYERS[type(layer)])
    # torch keeps parameters, buffers and children in dicts, which must not be shared with the layer.
    twin.__dict__.update((k, v.copy() if isinstance(v, dict) else v) for k, v in layer.__dict__.items())
    del twin._parameters["weight"]
    twin.hold(packed, compute_dtype)
    return cast("L", twin)
