"""Devices that a machine without any can have: each tensor knows where it lies, and two places do not mix.

They are called "lazy:0" and "lazy:1", after a kind of device that torch knows by name, lets tensors claim, and has no
code for here. So all that happens there happens here, to a tensor of the CPU inside.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ONE, TWO = "lazy:0", "lazy:1"
Move = tuple[str, str, torch.Size]
_moves: list[Move] = []


class There(Tensor):
    """A tensor on a simulated device."""

    inside: Tensor

    @staticmethod
    def __new__(cls: type["There"], inside: Tensor, device: torch.device) -> "There":
        made = Tensor._make_wrapper_subclass(
            cls, inside.shape, strides=inside.stride(), dtype=inside.dtype, device=device, requires_grad=False
        )
        made.inside = inside
        return made

    def data_ptr(self) -> int:
        return self.inside.data_ptr()

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"There({self.inside!r}, {self.device})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]  torch leaves it untyped
        cls, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return NotImplemented if _others(types) else _run(func, args, dict(kwargs or {}))


def _others(types: Iterable[type]) -> bool:
    """Whether tensors are there that have a say of their own."""
    return any(kind not in (There, Tensor, nn.Parameter, nn.Buffer) for kind in types)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:  # any operation of torch
    read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    places = {t.device for t in read if t.ndim or t.device.type != "cpu"}
    aten = torch.ops.aten
    moves = func in (aten._to_copy.default, aten.copy_.default, aten.to.dtype_layout)
    if len(places) > 1 and not moves:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got {sorted(map(str, places))}")
    asked = kwargs.get("device")
    target = torch.device(asked) if asked is not None else next(iter(places), torch.device("cpu"))
    target = args[0].device if func is aten.copy_.default else target
    if asked is not None:
        kwargs["device"] = "cpu" if target.type == "lazy" else target
        kwargs.pop("pin_memory", None)
    if moves and "lazy" in (target.type, args[0].device.type) and target != args[0].device:
        _moves.append((str(args[0].device), str(target), args[0].shape))
        if func is aten.to.dtype_layout:  # inside, both places are the CPU, and it would give the same tensor
            kwargs["copy"] = True
    inner_args, inner_kwargs = tree_map_only(There, lambda t: t.inside, (args, kwargs))
    made = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable and isinstance(args[0], Tensor):
        return args[0]
    return tree_map_only(Tensor, lambda t: There(t, target), made) if target.type == "lazy" else made


class _Machine(TorchDispatchMode):
    """Makes what is asked for on a simulated device, and brings there what comes from the CPU."""

    def __torch_dispatch__(  # pyright: ignore[reportIncompatibleMethodOverride]  torch leaves it untyped
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _others(types):
            return NotImplemented
        asked = (kwargs or {}).get("device")
        if asked is not None and torch.device(asked).type == "lazy":
            return _run(func, args, dict(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Values(TorchFunctionMode):
    """Makes tensors of numbers on the CPU first: torch does so out of sight."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        device = named.pop("device", None) if func is torch.tensor else None
        made = func(*args, **named)
        return made if device is None else made.to(device)


@contextmanager
def devices() -> Generator[list[Move]]:
    """Inside, this thread has the devices `ONE` and `TWO`. Gives what moves: from where, to where, its shape."""
    _moves.clear()
    with _Machine(), _Values():
        yield _moves
