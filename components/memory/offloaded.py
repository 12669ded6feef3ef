"""Weights that are stored on the CPU and copied to the device when an operation reads them.

The model that a run gets is a view: a module tree whose tensors report the device and the compute dtype, and hold the
stored tensor. Reading one fetches a copy, which is freed after use. The model itself has no hooks and is not changed.
So this works for every model, for any method (`vae.decode`), for a weight that a parent module reads, for views of
views, and for threads that run one model at once. accelerate's hooks change the shared module and serve one thread.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ...graph.errors import UnfitValue
from ..models.views import shallow_copy
from .wrapper import WrapperTensor

M = TypeVar("M", bound=nn.Module)
Copy = Callable[[Tensor, torch.device, torch.dtype], Tensor]
"""Copies a tensor to a device, in a dtype."""

_aten = torch.ops.aten


def copy_to(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy a tensor to a device in its stored dtype, and convert it there: so the fewest bytes are transferred."""
    return tensor.to(device, non_blocking=True).to(dtype)


class OffloadedTensor(WrapperTensor):
    """A weight that is stored elsewhere. Each operation on it gets a copy on the reported device. It is read-only.

    group: the number of the tensors that are copied together with it; None if it is copied alone.
    """

    group: int | None
    _stream: "WeightStream"

    @classmethod
    def of(cls, stored: Tensor, stream: "WeightStream", dtype: torch.dtype, group: int | None) -> "OffloadedTensor":
        """A tensor whose data `stream` copies to its device, in `dtype`."""
        made = cls.wrap(stored, stream.device, dtype)
        made.group, made._stream = group, stream
        return made

    def fetch(self) -> Tensor:
        """A copy on the device: the one of its group, or one of its own if it is in no group."""
        return self._stream.fetch(self)

    @classmethod
    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]  torch leaves it untyped
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # any operation of torch comes through here
        if func in (_aten.detach.default, _aten.alias.default):  # what state_dict() and nn.Parameter call
            one = cast("OffloadedTensor", args[0])
            return OffloadedTensor.of(one.stored, one._stream, one.dtype, one.group)
        if func._schema.is_mutable and isinstance(args[0], OffloadedTensor):
            raise UnfitValue(
                f"{func} would change a weight of an offloaded model, which is read-only. Take the model itself: "
                'manager.offload(name, by="model").'
            )
        fetched = tree_map_only(OffloadedTensor, OffloadedTensor.fetch, (args, dict(kwargs or {})))
        args, named = cast("tuple[Any, dict[str, Any]]", fetched)
        return func(*args, **named)


_Copies = dict[int, Tensor]  # the copies of one group, by the ids of the stored tensors


class _ThreadState:
    """The groups that one thread has on the device: those in use, and those that are prefetched for it."""

    def __init__(self) -> None:
        self.group: int | None = None
        self.on_device: dict[int, _Copies] = {}
        self.prefetched: tuple[dict[int, _Copies], Any] | None = None  # Any: a CUDA event


class WeightStream:
    """Copies the weights of one view to a device, group by group.

    count: how many groups are on the device at once. prefetch: copy as many of the next groups while these compute.
    The order of the groups is recorded in the first pass. Each thread has copies of its own, so the result of one
    thread never depends on another.
    """

    def __init__(self, device: torch.device, *, count: int = 1, prefetch: bool = False, copy: Copy = copy_to) -> None:
        self.device, self.count, self.prefetch = device, count, prefetch
        self.groups: dict[int, list[OffloadedTensor]] = {}
        self._copy = copy
        self._threads: dict[int, _ThreadState] = {}
        self._next_group: dict[int, int] = {}
        self._copy_stream: Any = None  # a CUDA stream, made at the first prefetch

    def fetch(self, tensor: OffloadedTensor) -> Tensor:
        """The copy of a tensor on the device, for the current thread."""
        group = tensor.group
        if group is None:
            return self._copy(tensor.stored, self.device, tensor.dtype)
        state = self._threads.setdefault(threading.get_ident(), _ThreadState())
        if state.group != group:
            if state.group is not None:
                self._next_group[state.group] = group
            state.group = group
            if group not in state.on_device:
                self._load(state, group)
        return state.on_device[group][id(tensor.stored)]

    def _load(self, state: _ThreadState, group: int) -> None:
        """Have this group on the device, and begin to prefetch those that follow."""
        state.on_device = {}  # freed before the next groups are copied
        prefetched, state.prefetched = state.prefetched, None
        if prefetched is not None and group in prefetched[0]:
            state.on_device = self._wait_for(*prefetched)
        else:
            del prefetched
            state.on_device = self._copy_groups(self._groups_from(group))
        if self.prefetch and (following := self._next_group.get(list(state.on_device)[-1])) is not None:
            state.prefetched = self._begin_copy(self._groups_from(following))

    def _groups_from(self, group: int) -> list[int]:
        """A group and those recorded to follow it, `count` in all."""
        groups = [group]
        while len(groups) < self.count and (following := self._next_group.get(groups[-1], group)) not in groups:
            groups.append(following)
        return groups

    def _copy_groups(self, groups: Sequence[int]) -> dict[int, _Copies]:
        return {
            group: {id(t.stored): self._copy(t.stored, self.device, t.dtype) for t in self.groups[group]}
            for group in groups
        }

    def _begin_copy(self, groups: Sequence[int]) -> tuple[dict[int, _Copies], Any]:
        """Begin to copy groups. On CUDA this runs on a stream of its own, while the model computes."""
        if self.device.type != "cuda":
            return self._copy_groups(groups), None
        self._copy_stream = self._copy_stream or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._copy_stream):
            return self._copy_groups(groups), self._copy_stream.record_event()

    def _wait_for(self, copies: dict[int, _Copies], event: Any) -> dict[int, _Copies]:
        if event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            for tensor in (t for group in copies.values() for t in group.values()):
                tensor.record_stream(current)  # so that its memory is not reused while this stream still reads it
        return copies

    def clear(self) -> None:
        """Free all copies on the device. Call it only while no thread runs the view."""
        self._threads.clear()


def offloaded_view(
    model: M, stream: WeightStream, groups: Mapping[int, int], dtype: Callable[[Tensor], torch.dtype]
) -> M:
    """A view of a model whose weights `stream` copies to its device.

    groups: the group of each tensor, by its id. A tensor in none is copied alone. dtype: what to compute a tensor in.
    """
    wrapped: dict[int, OffloadedTensor] = {}
    copied: dict[int, nn.Module] = {}

    def wrap(tensor: Tensor) -> OffloadedTensor:
        if id(tensor) not in wrapped:
            one = wrapped[id(tensor)] = OffloadedTensor.of(tensor, stream, dtype(tensor), groups.get(id(tensor)))
            if one.group is not None:
                stream.groups.setdefault(one.group, []).append(one)
        return wrapped[id(tensor)]

    def copy(module: nn.Module) -> nn.Module:
        if id(module) not in copied:
            new = copied[id(module)] = shallow_copy(module)
            for table in (new._parameters, new._buffers):
                tensors = cast("dict[str, Tensor | None]", table)
                tensors.update({name: wrap(tensor) for name, tensor in tensors.items() if tensor is not None})
            new._modules.update({name: copy(child) for name, child in new._modules.items() if child is not None})
        return copied[id(module)]

    return cast("M", copy(model))
