"""Weights that lie elsewhere and come when an operation asks for them.

A view of a model whose tensors say that they are on the device, in the dtype that is computed in, and are not: each is
brought for the operation that reads it, and let go after. Nothing of the model is hooked or replaced, so that this
works for every model, for any way in (`vae.decode`, a weight that is read by its parent), for views of views, and for
threads that run one model at once. accelerate's hooks change the shared module and serve one thread.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..models.views import shallow_copy

M = TypeVar("M", bound=nn.Module)
Carry = Callable[[Tensor, torch.device, torch.dtype], Tensor]
"""Copies a tensor to a device in a dtype."""

_aten = torch.ops.aten


def carry(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """To the device first, as it is stored, and there to the dtype: so the fewest bytes travel."""
    return tensor.to(device, non_blocking=True).to(dtype)


class Away(Tensor):
    """A tensor that lies elsewhere. Whatever reads it gets a copy that is on `device`, in `dtype`; it is read only."""

    home: Tensor
    group: int | None
    _stream: "Stream"

    @staticmethod
    def __new__(cls: type["Away"], home: Tensor, stream: "Stream", dtype: torch.dtype, group: int | None) -> "Away":
        made = Tensor._make_wrapper_subclass(
            cls, home.shape, strides=home.stride(), dtype=dtype, device=stream.device, requires_grad=False
        )
        made.home, made.group, made._stream = home, group, stream
        return made

    def here(self) -> Tensor:
        """The copy: that of its group, if the group is there as a whole, else its own."""
        return self._stream.get(self)

    def __deepcopy__(self, memo: object) -> Tensor:  # type: ignore[override]  # torch leaves it untyped
        return self.here().clone()  # a copy of the model is a plain one, all of it on the device

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Away({tuple(self.shape)}, {self.dtype} on {self.device}, kept in {self.home.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]  torch's way to say: only what it dispatches

    @classmethod
    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]  torch leaves it untyped
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # any operation of torch comes through here
        if func in (_aten.detach.default, _aten.alias.default):  # what state_dict() and nn.Parameter do
            one = cast("Away", args[0])
            return Away(one.home, one._stream, one.dtype, one.group)
        if func._schema.is_mutable and isinstance(args[0], Away):
            raise TypeError(
                f"{func} would change a weight of a model that is offloaded, which is read only. "
                'Take the model itself: manager.offload(name, by="model").'
            )
        here, named = cast("tuple[Any, dict[str, Any]]", tree_map_only(Away, Away.here, (args, dict(kwargs or {}))))
        return func(*here, **named)


_Group = dict[int, Tensor]  # the copies of a group, by the ids of what they are copies of


class _Thread:
    """What one thread has on the device: groups it works with, and those that it will ask for next."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.held: dict[int, _Group] = {}
        self.ahead: tuple[dict[int, _Group], Any] | None = None  # Any: a CUDA event


class Stream:
    """Brings the tensors of one view, group by group: `count` groups are on the device, and as many where the next are
    fetched beside the work.

    Which group follows which is learned in the first pass. Each thread has copies of its own, and so results never
    depend on other threads.
    """

    def __init__(self, device: torch.device, *, count: int = 1, prefetch: bool = False, carry: Carry = carry) -> None:
        self.device, self.count, self.prefetch = device, count, prefetch
        self.groups: dict[int, list[Away]] = {}
        self._carry = carry
        self._threads: dict[int, _Thread] = {}
        self._follows: dict[int, int] = {}
        self._side: Any = None  # a CUDA stream, made at the first fetch

    def get(self, wanted: Away) -> Tensor:
        """The copy of a tensor on the device."""
        group = wanted.group
        if group is None:
            return self._carry(wanted.home, self.device, wanted.dtype)
        mine = self._threads.setdefault(threading.get_ident(), _Thread())
        if mine.last != group:
            if mine.last is not None:
                self._follows[mine.last] = group
            mine.last = group
            if group not in mine.held:
                self._turn(mine, group)
        return mine.held[group][id(wanted.home)]

    def _turn(self, mine: _Thread, group: int) -> None:
        mine.held = {}  # let go before the next come
        fetched, mine.ahead = mine.ahead, None
        if fetched is not None and group in fetched[0]:
            mine.held = self._arrived(*fetched)
        else:
            del fetched
            mine.held = self._whole(self._from(group))
        if self.prefetch and (following := self._follows.get(list(mine.held)[-1])) is not None:
            mine.ahead = self._fetch(self._from(following))

    def _from(self, group: int) -> list[int]:
        """A group and those known to follow, as many as are to be there together."""
        found = [group]
        while len(found) < self.count and (following := self._follows.get(found[-1], group)) not in found:
            found.append(following)
        return found

    def _whole(self, groups: Sequence[int]) -> dict[int, _Group]:
        return {g: {id(t.home): self._carry(t.home, self.device, t.dtype) for t in self.groups[g]} for g in groups}

    def _fetch(self, groups: Sequence[int]) -> tuple[dict[int, _Group], Any]:
        """Begin to bring groups; on CUDA beside the work that goes on."""
        if self.device.type != "cuda":
            return self._whole(groups), None
        self._side = self._side or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._side):
            return self._whole(groups), self._side.record_event()

    def _arrived(self, groups: dict[int, _Group], event: Any) -> dict[int, _Group]:
        if event is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(event)
            for tensor in (t for group in groups.values() for t in group.values()):
                tensor.record_stream(now)  # so that its memory is not used anew while this stream still reads it
        return groups

    def clear(self) -> None:
        """Let go of all groups on the device. For when nobody runs the view."""
        self._threads.clear()


def away(model: M, stream: Stream, groups: Mapping[int, int], dtype: Callable[[Tensor], torch.dtype]) -> M:
    """The view. `groups` says by id which group a tensor belongs to; those without come one by one."""
    made: dict[int, Away] = {}
    twins: dict[int, nn.Module] = {}

    def wrap(tensor: Tensor) -> Away:
        if id(tensor) not in made:
            one = made[id(tensor)] = Away(tensor, stream, dtype(tensor), groups.get(id(tensor)))
            if one.group is not None:
                stream.groups.setdefault(one.group, []).append(one)
        return made[id(tensor)]

    def twin(module: nn.Module) -> nn.Module:
        if id(module) not in twins:
            new = twins[id(module)] = shallow_copy(module)
            for table in (new._parameters, new._buffers):
                held = cast("dict[str, Tensor | None]", table)
                held.update({name: wrap(tensor) for name, tensor in held.items() if tensor is not None})
            new._modules.update({name: twin(child) for name, child in new._modules.items() if child is not None})
        return twins[id(module)]

    return cast("M", twin(model))


def blocks(model: nn.Module, size: Callable[[nn.Module], int]) -> Iterator[nn.Module]:
    """The blocks of a model: the members of its lists of modules, in their order. One that is more than a sixteenth of
    the model is taken apart into blocks of its own, where it has lists."""
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
