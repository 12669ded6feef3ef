"""Layers with patches: a layer's own output, plus the outputs of its patches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.views import Replacement, combined_class, shallow_copy
from .widening import summed

M = TypeVar("M", bound=nn.Module)


@dataclass(eq=False)
class Strengths:
    """The strength of each column of patches: one object for all layers of a view that have equal strengths.

    values: (columns,), or (rows, columns) where rows differ; float32. `predict` of a run sets them before a forward, so
    a view with its own strengths belongs to one run.
    """

    values: Tensor

    def of(self, columns: Tensor, ndim: int) -> Tensor:
        """The strengths of columns, for outputs of so many axes: (…, columns) behind the rows."""
        chosen = self.values.to(columns.device)[..., columns]
        return chosen if chosen.ndim == 1 else chosen.reshape(len(chosen), *[1] * (ndim - 2), -1)


class LayerPatches(nn.Module):
    """The patches of one layer.

    down: (ranks, in[, height, width]), up: (out, ranks): all low-rank patches, one behind the other. columns, scales:
    for each rank the column of `Strengths` and the patch's own scale. extras: layers that compute the output of one
    patch each at strength 1. extra_columns: (extras,), their columns of `Strengths`.
    """

    down: Tensor | None
    up: Tensor | None
    columns: Tensor | None
    scales: Tensor | None
    extra_columns: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("down", "up", "columns", "scales"):
            self.register_buffer(name, None)
        self.register_buffer("extra_columns", torch.zeros(0, dtype=torch.long))
        self.extras = nn.ModuleList()

    def add(self, column: int, extra: nn.Module) -> None:
        """Add a layer whose output is that of a patch."""
        self.extra_columns = torch.cat([self.extra_columns, torch.tensor([column])])
        self.extras.append(extra)

    @property
    def whole(self) -> list[tuple[Tensor, nn.Module]]:
        """Pairs of a column (1,) and a layer that computes the output of the patch at strength 1."""
        return [(self.extra_columns[i : i + 1], extra) for i, extra in enumerate(self.extras)]

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.extra_columns.device

    def on(self, device: torch.device) -> "LayerPatches":
        """The same patches on a device: themselves, or a copy."""
        return self if self.device == device else copied_to(self, device)

    @property
    def columns_read(self) -> int:
        """The most columns that patches of a linear layer read."""
        matrices = [extra.weight for extra in self.extras if isinstance(extra, nn.Linear)]
        return max((m.shape[1] for m in (*matrices, self.down) if m is not None), default=0)

    def differences(self, strengths: Tensor) -> dict[str, Tensor]:
        """Return the changes of "weight" and "bias" at these strengths (columns,), in float32."""
        found: dict[str, Tensor] = {}
        if self.down is not None:
            assert self.up is not None and self.columns is not None and self.scales is not None
            factor = strengths.to(self.columns.device)[self.columns] * self.scales
            down = self.down.float()
            found["weight"] = ((self.up.float() * factor) @ down.flatten(1)).reshape(len(self.up), *down.shape[1:])
        for column, extra in self.whole:
            factor = float(strengths[int(column)])
            for name, tensor in extra.named_parameters(recurse=False):
                added = tensor.detach().float() * factor
                found[name] = summed(found[name].to(added.device), added) if name in found else added
        return found

    def added(self, layer: nn.Module, x: Tensor, y: Tensor, strengths: Strengths) -> Tensor:
        """The output `y` of a layer for the input `x`, plus the outputs of its patches."""
        if self.down is not None:
            assert self.up is not None and self.columns is not None and self.scales is not None
            factor = strengths.of(self.columns, 2) * self.scales
            y = y + low_rank_output(layer, x, self.down, self.up, factor).to(y.dtype)
        for column, extra in self.whole:
            read = x[..., : extra.weight.shape[1]] if isinstance(extra, nn.Linear) else x
            made = extra(read.to(next(extra.parameters()).dtype) if x.is_floating_point() else x)  # ids stay whole
            factor = strengths.of(column, 2)
            y = y + (made * _for_axes(factor, made, 1 if _by_channel(layer) else -1)).to(y.dtype)
        return y


def low_rank_output(layer: nn.Module, x: Tensor, down: Tensor, up: Tensor, factor: Tensor | None = None) -> Tensor:
    """What `up @ down` adds to the output of a layer for the input `x`.

    down: (ranks, in[, height, width]). up: (out, ranks). factor: of each rank, (ranks,) or (rows, ranks); None for 1.
    """
    x = x.to(down.dtype)
    if isinstance(layer, nn.Conv2d):
        inner = F.conv2d(x, down, None, layer.stride, cast("Any", layer.padding), layer.dilation)
        return F.conv2d(_scaled(inner, factor, 1), up[..., None, None])
    inner = F.linear(x[..., : down.shape[1]], down)
    return F.linear(_scaled(inner, factor, -1), up)


def _scaled(inner: Tensor, factor: Tensor | None, axis: int) -> Tensor:
    return inner if factor is None else inner * _for_axes(factor, inner, axis).to(inner.dtype)


def difference_output(layer: nn.Module, x: Tensor, difference: Tensor) -> Tensor:
    """What a difference of the matrix of a linear layer or convolution adds to its output for the input `x`."""
    x = x.to(difference.dtype)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, difference, None, layer.stride, cast("Any", layer.padding), layer.dilation)
    return F.linear(x, difference)


def _by_channel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.GroupNorm)


def _for_axes(factor: Tensor, like: Tensor, axis: int) -> Tensor:
    """Factors (columns,) or (rows, columns) in the shape in which they multiply `like` along an axis."""
    shape = [1] * like.ndim
    shape[axis] = factor.shape[-1]
    if factor.ndim > 1:
        shape[0] = len(factor)
    return factor.reshape(shape)


class PatchedLayer(nn.Module):
    """A layer that adds its patches to its output; the first of the classes that a patched layer inherits from."""

    patches: LayerPatches
    strengths: Strengths

    def forward(self, x: Tensor, *more: Any, **named: Any) -> Tensor:  # the arguments of the layer's own forward
        """The layer's output with its patches."""
        y = super().forward(x, *more, **named)
        rows = self.strengths.values
        if rows.ndim > 1 and len(x) not in (1, len(rows)):
            raise ValueError(
                f"adapters= has adapters for {len(rows)} rows, and the model got {len(x)}. "
                "Pass one list for each prompt."
            )
        return self.patches.on(x.device).added(self, x, y, self.strengths)


class WidenedLayer(nn.Linear):
    """A linear layer that has weights for its first columns alone: only patches read the others."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output for the columns that its weight has."""
        return super().forward(input[..., : self.in_features].contiguous())


def patched(patches: LayerPatches, strengths: Strengths) -> Replacement:
    """A change that adds patches to a layer, quantized ones included: the layer's own forward stays as it is."""

    def change(module: nn.Module) -> nn.Module:
        kind = type(module)
        if isinstance(module, nn.Linear) and patches.columns_read > module.in_features:
            kind = combined_class(WidenedLayer, kind)
        twin = shallow_copy(module, combined_class(PatchedLayer, kind))
        twin.__dict__.update(patches=patches, strengths=strengths)  # so that they are no part of the model
        return twin

    return change


def copied_to(module: M, device: torch.device) -> M:
    """A copy of a module with its tensors on another device; the module itself stays."""
    twin = shallow_copy(module)
    for name, parameter in module.named_parameters(recurse=False):
        twin._parameters[name] = nn.Parameter(parameter.detach().to(device), requires_grad=False)
    twin._buffers.update({name: buffer.to(device) for name, buffer in module.named_buffers(recurse=False)})
    twin._modules.update({name: copied_to(child, device) for name, child in module.named_children()})
    return twin


def layer_of(layer: nn.Module, weight: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    """A layer like `layer` with another weight and bias. Its output is the change that a whole difference makes.

    Layers are linear in their weight and bias, norms included, so the output of the difference is the difference of the
    outputs.
    """
    out = weight.shape[0] if weight is not None else cast("Tensor", bias).shape[0]

    def parameter(tensor: Tensor | None, like: Sequence[int]) -> nn.Parameter:
        made = torch.zeros(like) if tensor is None else tensor
        return nn.Parameter(made.to(dtype), requires_grad=False)

    if isinstance(layer, nn.Linear):
        made: nn.Module = nn.Linear(layer.in_features, out, bias=bias is not None, device="meta")
    elif isinstance(layer, nn.Conv2d):
        made = nn.Conv2d(
            layer.in_channels, out, cast("Any", layer.kernel_size), cast("Any", layer.stride),
            cast("Any", layer.padding), cast("Any", layer.dilation), bias=bias is not None, device="meta",
        )  # fmt: skip
    else:
        made = shallow_copy(layer)
    shape = _weight_shape(layer, out)
    made._parameters["weight"] = parameter(weight, shape)
    if bias is not None or made._parameters.get("bias") is not None:
        made._parameters["bias"] = parameter(bias, (out,))
    return made


def _weight_shape(layer: nn.Module, out: int) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return out, layer.in_features
    if isinstance(layer, nn.Conv2d):
        return out, layer.in_channels // layer.groups, *layer.kernel_size
    return (out,)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer in float32, decoded where it is packed.

    A quantized linear layer is decoded by its own forward: it maps the rows of the identity to the columns of the
    weight. So every kind of quantization is read, with the numbers that the layer computes with.
    """
    weight: Any = getattr(layer, "weight", None)  # a tensor, or a packed one of any library
    if type(weight) in (nn.Parameter, Tensor) and weight.is_floating_point() and not weight.is_meta:
        return weight.detach().float()
    if isinstance(layer, nn.Linear):
        without_bias = shallow_copy(layer)
        without_bias._parameters["bias"] = None
        known = isinstance(weight, Tensor)
        dtype = weight.dtype if known and weight.is_floating_point() and weight.itemsize > 1 else torch.float32
        with torch.no_grad():
            return without_bias(
                torch.eye(layer.in_features, dtype=dtype, device=weight.device if known else None)
            ).T.float()
    return cast("Tensor", weight).detach().float()
