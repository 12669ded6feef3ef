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

from ..models.views import shallow

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


class _Thread:
    """What one thread has on the device: the group it works with, and the one that it will ask for next."""

    def __init__(self) -> None:
        self.group: int | None = None
        self.held: dict[int, Tensor] = {}
        self.ahead: tuple[int, dict[int, Tensor], Any] | None = None  # Any: a CUDA event


class Stream:
    """Brings the tensors of one view, group by group: one group is on the device, and the next where it is fetched.

    Which group follows which is learned in the first pass. Each thread has groups of its own, and so results never
    depend on other threads.
    """

    def __init__(self, device: torch.device, *, prefetch: bool = False, carry: Carry = carry) -> None:
        self.device = device
        self.prefetch = prefetch
        self.groups: dict[int, list[Away]] = {}
        self._carry = carry
        self._threads: dict[int, _Thread] = {}
        self._follows: dict[int, int] = {}
        self._side: Any = None  # a CUDA stream, made at the first fetch

    def get(self, wanted: Away) -> Tensor:
        """The copy of a tensor on the device."""
        if wanted.group is None:
            return self._carry(wanted.home, self.device, wanted.dtype)
        mine = self._threads.setdefault(threading.get_ident(), _Thread())
        if mine.group != wanted.group:
            self._turn(mine, wanted.group)
        return mine.held[id(wanted.home)]

    def _turn(self, mine: _Thread, group: int) -> None:
        before, mine.group = mine.group, None
        mine.held = {}  # let go before the next comes
        fetched, mine.ahead = mine.ahead, None
        if fetched is not None and fetched[0] == group:
            mine.held = self._arrived(fetched)
        else:
            del fetched
            mine.held = self._whole(group)
        mine.group = group
        if before is not None:
            self._follows[before] = group
        if self.prefetch and (following := self._follows.get(group)) is not None:
            mine.ahead = self._fetch(following)

    def _whole(self, group: int) -> dict[int, Tensor]:
        return {id(t.home): self._carry(t.home, self.device, t.dtype) for t in self.groups[group]}

    def _fetch(self, group: int) -> tuple[int, dict[int, Tensor], Any]:
        """Begin to bring a group; on CUDA beside the work that goes on."""
        if self.device.type != "cuda":
            return group, self._whole(group), None
        self._side = self._side or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._side):
            return group, self._whole(group), self._side.record_event()

    def _arrived(self, fetched: tuple[int, dict[int, Tensor], Any]) -> dict[int, Tensor]:
        _, tensors, event = fetched
        if event is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(event)
            for tensor in tensors.values():
                tensor.record_stream(now)  # so that its memory is not used anew while this stream still reads it
        return tensors

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
            new = twins[id(module)] = shallow(module)
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
