"""The tensors of a component: a list of them, their memory, and those of each block."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..device_map import Parts

PLAIN_TENSORS = (Tensor, nn.Parameter, nn.Buffer)
"""Tensor classes whose values are stored as they are: all others are subclasses, such as quantized weights."""


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of a module itself, without those of its children."""
    yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if isinstance(t, Tensor))


def tensors_of(component: object) -> Iterator[Tensor]:
    """All parameters and buffers of a component. A quantized weight gives the tensors that it is made of."""
    if isinstance(component, nn.Module):
        for module in component.modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    yield from _stored_tensors(tensor)


def _stored_tensors(tensor: Tensor) -> Iterator[Tensor]:
    if type(tensor) in PLAIN_TENSORS:
        yield tensor
        return
    names: Any = getattr(type(tensor), "__tensor_flatten__", None)  # Any: torch's protocol for subclasses is untyped
    if names is not None:
        for name in names(tensor)[0]:
            yield from _stored_tensors(getattr(tensor, name))
        return
    yield tensor
    if type(tensor).__module__.startswith("bitsandbytes."):  # at 8 bits the parameter itself has the scales
        state = getattr(tensor, "quant_state", None)
        for holder in (tensor, state, getattr(state, "state2", None)):
            yield from (value for value in getattr(holder, "__dict__", {}).values() if type(value) is Tensor)


def device_of(component: object) -> str:
    """The device of a component's first tensor; "cpu" for a component without tensors."""
    return next((str(tensor.device) for tensor in tensors_of(component)), "cpu")


@runtime_checkable
class HoldsMemory(Protocol):
    """An object with memory that torch does not know, such as models that another library has converted."""

    @property
    def memory_parts(self) -> Parts:
        """Its memory in bytes, by names of its own."""
        ...


def parts_of(component: object) -> Parts:
    """The memory of a component's tensors in bytes, each byte once. A part is named by its device and its address.

    Only bytes that a tensor covers are counted: a storage may be a whole file that is memory-mapped. An object with
    memory that torch does not know says itself how much.
    """
    if isinstance(component, HoldsMemory):
        return component.memory_parts
    spans = sorted({span for tensor in tensors_of(component) if (span := _span(tensor)) is not None})
    parts: dict[Hashable, int] = {}
    device, begin, end = None, 0, -1
    for where, first, last in spans:
        if where == device and first < end:
            end = max(end, last)
        else:
            device, begin, end = where, first, last
        parts[device, begin] = end - begin
    return parts


def _span(tensor: Tensor) -> tuple[str, int, int] | None:
    if tensor.is_meta or not tensor.numel():
        return None
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return str(tensor.device), begin, begin + (last + 1) * tensor.element_size()


def total_bytes(parts: Iterable[Parts]) -> int:
    """Bytes of all parts together. A part that is in several of them counts once.

    >>> total_bytes([{"a": 2, "b": 3}, {"b": 3, "c": 4}])
    9
    """
    union: dict[Hashable, int] = {}
    for each in parts:
        union.update(each)
    return sum(union.values())


def bytes_as(tensors: Iterable[Any], dtype: torch.dtype | None) -> int:  # Any: tensors, parameters and buffers
    """Bytes of these tensors if floats are stored in `dtype`; in their own dtype if that is None."""
    return sum(
        t.numel() * (dtype if dtype and t.is_floating_point() else t.dtype).itemsize
        for t in {id(t): t for t in tensors}.values()
    )


def blocks_of(model: nn.Module, size: Callable[[nn.Module], int]) -> Iterator[nn.Module]:
    """The blocks of a model, in order: the members of its module lists.

    A block larger than a sixteenth of the model is split into blocks of its own, if it has module lists. `size` gives
    the bytes of a module.
    """
    most = size(model) / 16

    def inside(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if not isinstance(child, nn.ModuleList):
                yield from inside(child)
                continue
            for member in child:
                if size(member) > most and any(isinstance(m, nn.ModuleList) for m in member.modules()):
                    yield from inside(member)
                else:
                    yield member

    yield from inside(model)
