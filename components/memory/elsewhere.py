"""A model whose modules lie on several devices, as one that is on the first of them.

A view, as everything that changes how a model runs: accelerate's `dispatch_model` replaces `forward` on the shared
module, which views of it would go past. Each piece brings what it is given to its device. What it gives stays there
until something elsewhere reads it: from one piece to the next on the same device nothing travels, and what lies between
pieces (a sum with a control net's residuals, a skip connection) works without knowing of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..device_map import DeviceMap
from ..models.views import Change, shallow_copy, view
from .splitting import own

M = TypeVar("M", bound=nn.Module)
_WAYS = ("forward", "encode", "decode", "moments")
"""The methods that a model is asked by."""


class Elsewhere(Tensor):
    """A tensor that says it is at home and lies on another device.

    An operation runs where all that it reads lies, and at home where that is more than one place. One that writes into
    it runs where it lies.
    """

    there: Tensor

    @staticmethod
    def __new__(cls: type["Elsewhere"], there: Tensor, home: torch.device) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls, there.shape, strides=there.stride(), dtype=there.dtype, device=home, requires_grad=False
        )
        made.there = there
        return made

    def here(self) -> Tensor:
        """A copy at home."""
        return self.there.to(self.device)

    def __deepcopy__(self, memo: object) -> Tensor:  # type: ignore[override]  # torch leaves it untyped
        return self.here()

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Elsewhere({tuple(self.shape)}, {self.dtype} for {self.device}, lies on {self.there.device})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]  torch's way to say: only what it dispatches

    @classmethod
    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]  torch leaves it untyped
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # any operation of torch comes through here
        given = args, dict(kwargs or {})
        read = [t for t in tree_leaves(given) if isinstance(t, Tensor)]
        home = next(t.device for t in read if isinstance(t, Elsewhere))
        if func._schema.is_mutable and isinstance(args[0], Elsewhere):
            _run(func, given, args[0].there.device)
            return args[0]
        places = {t.there.device if isinstance(t, Elsewhere) else t.device for t in read if not _scalar(t)}
        if len(places) > 1 or home in places:
            return _run(func, given, home)
        made = _run(func, given, next(iter(places), home))
        # One that names a device gives what lies there.
        return made if given[1].get("device") is not None else tree_map_only(Tensor, lambda t: lent(t, home), made)


def _run(func: Any, given: Any, device: torch.device) -> Any:  # as torch hands them over
    args, kwargs = tree_map_only(Tensor, lambda t: t if _scalar(t) else brought(t, device), given)
    return func(*args, **kwargs)


def _scalar(tensor: Tensor) -> bool:
    """Whether it goes with tensors of any device: a number on the CPU."""
    return tensor.ndim == 0 and tensor.device.type == "cpu" and not isinstance(tensor, Elsewhere)


def brought(tensor: Tensor, device: torch.device) -> Tensor:
    """A plain tensor on a device; itself where it lies there."""
    return (tensor.there if isinstance(tensor, Elsewhere) else tensor).to(device)


def lent(tensor: Tensor, home: torch.device) -> Tensor:
    """A tensor as one at home. What gradients flow through goes there at once."""
    there = tensor.there if isinstance(tensor, Elsewhere) else tensor
    return there.to(home) if there.requires_grad or there.device == home else Elsewhere(there, home)


def spread(model: M, cut: DeviceMap) -> M:
    """The view of a model whose modules lie as `cut` says: it takes and gives tensors on the cut's main device."""
    home = torch.device(cut.main_device)
    alone = pieces(model, cut.device_of)
    within = {path for path, _ in model.named_modules() if path and not any(_under(path, piece) for piece in alone)}
    changes: dict[str, Change] = {path: _lending(home) for path in within}
    changes |= {path: _piece(torch.device(device), home) for path, device in alone.items()}
    return view(model, {**changes, "": _whole(home)})


def pieces(model: nn.Module, device: Callable[[str], str]) -> dict[str, str]:
    """The largest modules that lie on one device and are called as one, and that device, by path."""
    found: dict[str, str] = {}

    def inside(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            where = f"{path}.{name}".lstrip(".")
            devices = {device(p) for p, m in child.named_modules(prefix=where) if any(True for _ in own(m))}
            if len(devices) == 1 and not isinstance(child, nn.ModuleList | nn.ModuleDict):
                found[where] = devices.pop()
            elif devices:
                inside(child, where)

    inside(model, "")
    return found


def _under(path: str, piece: str) -> bool:
    return path == piece or path.startswith(f"{piece}.")


def _lending(home: torch.device, kind: type[nn.Module] | None = None) -> Change:
    """A module whose own tensors are at home for those that read them."""

    def change(module: nn.Module) -> nn.Module:
        twin = shallow_copy(module, kind)
        for table in (twin._parameters, twin._buffers):
            held = cast("dict[str, Tensor | None]", table)
            held.update({name: lent(t, home) for name, t in held.items() if t is not None and t.device != home})
        return twin

    return change


def _piece(device: torch.device, home: torch.device) -> Change:
    """A module that brings what it is given to its device."""

    def change(module: nn.Module) -> nn.Module:
        kind = _at(type(module), device, home, bool(module._modules))
        # Others read a layer's weights past its forward, as CLIP does those of its places.
        return shallow_copy(module, kind) if module._modules else _lending(home, kind)(module)

    return change


@cache
def _at(kind: type[nn.Module], device: torch.device, home: torch.device, plain: bool) -> type[nn.Module]:
    """The class of such a module. One whose weights are lent is given what lies beside them."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # whatever the module takes and gives
        def come(tensor: Tensor) -> Tensor:
            there = brought(tensor, device)
            return there if plain else lent(there, home)

        stacks: list[list[Any]] = []
        args, kwargs = _each((args, kwargs), come, stacks)
        _lend(stacks, device)
        given = _each(kind.forward(self, *args, **kwargs), lambda t: lent(t, home))
        _lend(stacks, home)
        return given

    return cast("type[nn.Module]", type(kind.__name__, (kind,), {"forward": forward}))


def _whole(home: torch.device) -> Change:
    """The model itself: what it takes and gives is at home."""
    return lambda module: _lending(home, _home(type(module), home))(module)


@cache
def _home(kind: type[nn.Module], home: torch.device) -> type[nn.Module]:
    def at_home(way: Callable[..., Any]) -> Callable[..., Any]:
        def ask(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # whatever the model takes and gives
            args, kwargs = _each((args, kwargs), lambda t: brought(t, home))
            return _each(way(self, *args, **kwargs), lambda t: brought(t, home))

        return ask

    ways = {name: at_home(getattr(kind, name)) for name in _WAYS if hasattr(kind, name)}
    return cast("type[nn.Module]", type(kind.__name__, (kind,), ways))


def _lend(stacks: list[list[Any]], home: torch.device) -> None:
    """Have lists hold what they hold as if it were on this device. Modules take from a list what others put there, so
    it stays the same list."""
    for stack in stacks:
        stack[:] = [_each(one, lambda t: lent(t, home)) for one in stack]


def _each(value: Any, change: Callable[[Tensor], Tensor], stacks: list[list[Any]] | None = None) -> Any:
    """A value of any form with its tensors changed; with `stacks`, lists are added there instead."""

    def leaf(one: Any) -> Any:
        if isinstance(one, Tensor):
            return change(one)
        if isinstance(one, list) and stacks is not None:
            stacks.append(cast("list[Any]", one))
        if is_dataclass(one) and not isinstance(one, type):
            return replace(one, **{f.name: _each(getattr(one, f.name), change) for f in fields(one) if f.init})
        return one

    return tree_map(leaf, value, is_leaf=None if stacks is None else lambda one: isinstance(one, list))
