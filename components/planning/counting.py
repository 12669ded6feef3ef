"""Computing without values: what needs a weight is done on torch's meta device, and its operations are counted."""

import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_flop_count

from ..models.constants import Constants

_ATTENTION = torch.nn.functional.scaled_dot_product_attention
_READS = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "unique_dim", "_unique2"}
"""Functions whose result depends on numbers, and not on shapes alone."""

if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry:

    @register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
    def _attention_on_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:  # shapes
        """The operations of attention on CPUs, for which torch's counter has no formula."""
        return sdpa_flop_count(query, key, value)


class NeedsValues(Exception):
    """A block reads numbers of a tensor that has none."""

    def __init__(self, why: str = "reads numbers of its inputs") -> None:
        super().__init__(why)


class Count:
    """The operations of one node, and the most bytes of tensors without values that were alive while it ran."""

    def __init__(self) -> None:
        self.flops = self.peak = 0


class Counting:
    """In this context, an operation on a tensor without values gives one without values. Others are done as usual.

    So schedules, masks and tokens have their values, and what models compute has shapes alone. The operations are
    counted by the formulas of torch's FlopCounterMode. Affects one thread.

    count: where operations are counted now.
    """

    def __init__(self) -> None:
        self.count = Count()
        self.bytes = self.peak = 0
        self.seen: dict[Any, tuple[nn.Module, Any]] = {}
        self._alive: dict[int, Any] = {}
        self._modes = (_Operations(self), _Attention(self))

    def __enter__(self) -> Self:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    @contextmanager
    def counted_for(self, count: Count) -> Generator[None]:
        """Count the operations in this context for a node."""
        before, self.count = self.count, count
        try:
            yield
        finally:
            self.count = before

    def add(self, packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Count a function of torch, if it has a formula."""
        if packet in flop_registry:
            self.count.flops += flop_registry[packet](*args, **kwargs, out_val=out)

    def watch(self, tensor: Tensor, *, made: bool) -> None:
        """Count the memory of a tensor that was made, until the last tensor that shares it is deleted."""
        storage = tensor.untyped_storage()
        if (key := storage._cdata) in self._alive:
            return
        size = storage.nbytes() if made else 0
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

        def freed(_: object) -> None:
            self._alive.pop(key, None)
            self.bytes -= size

        self._alive[key] = weakref.ref(storage, freed)


class _Operations(TorchDispatchMode):
    """Does each operation of torch, with or without values."""

    def __init__(self, counting: Counting) -> None:
        super().__init__()
        self._counting = counting

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # any function of torch comes through here
        kwargs = dict(kwargs or {})
        leaves, form = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        without_values = [tensor for tensor in tensors if tensor.is_meta]
        device = kwargs.get("device")
        if not without_values and (device is None or torch.device(device).type != "meta"):
            return func(*args, **kwargs)
        packet = func._overloadpacket
        if packet.__name__ in _READS:
            raise NeedsValues
        if packet not in flop_registry:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        for tensor in without_values:
            self._counting.watch(tensor, made=False)
        empty: tuple[Sequence[Any], dict[str, Any]]
        empty = tree_unflatten([_empty_like(x) if isinstance(x, Tensor) else x for x in leaves], form)
        args, named = empty
        if named.get("device") is not None:
            named["device"] = torch.device("meta")
        out = func(*args, **named)
        self._counting.add(packet, args, named, out)
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor) and leaf.is_meta:
                self._counting.watch(leaf, made=True)
        return out


class _Attention(TorchFunctionMode):
    """Does attention without values in one operation, as the fused kernels of all devices do."""

    def __init__(self, counting: Counting) -> None:
        super().__init__()
        self._counting = counting

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:  # any function of torch comes through here
        kwargs = kwargs or {}
        if func is _ATTENTION and len(args) >= 3 and any(t.is_meta for t in args[:3]):
            query, key, value = args[:3]
            lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
            query, key, value = (t.expand(*lead, *t.shape[-2:]).flatten(0, -4) for t in (query, key, value))
            self._counting.count.flops += sdpa_flop_count(query.shape, key.shape, value.shape)
            out = torch.empty(*lead, query.shape[-2], value.shape[-1], dtype=value.dtype, device="meta")
            return out
        return func(*args, **kwargs)


def _empty_like(tensor: Tensor) -> Tensor:
    """A tensor of the same form without values."""
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


# ------------------------------------------------------------------------------------------------ models
class _CountedOnce(nn.Module):
    """A model without values. A call with arguments of the same shapes as an earlier one is counted and not done."""

    _counting: Counting

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        counting, count = self._counting, self._counting.count
        key = _shapes_of(self, args, kwargs)
        if key in counting.seen:
            _, (flops, extra, forms, form) = counting.seen[key]
            count.flops += flops
            counting.peak = max(counting.peak, counting.bytes + extra)
            return tree_unflatten([_of_form(one) for one in forms], form)
        flops, before, peak = count.flops, counting.bytes, counting.peak
        counting.peak = before
        out = super().__call__(*args, **kwargs)
        extra = counting.peak - before
        counting.peak = max(peak, counting.peak)
        leaves, form = tree_flatten(out)
        if key is not None and all(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves):
            forms = [(leaf.shape, leaf.stride(), leaf.dtype) for leaf in leaves]
            counting.seen[key] = self, (count.flops - flops, extra, forms, form)
        return out


def count_once(model: nn.Module, counting: Counting) -> None:
    """Have a model on the meta device, and its views, do a call once for all arguments of the same shapes."""
    kind = type(model)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_counting": counting}
    model.__class__ = type(kind.__name__, (_CountedOnce, kind), names)


def _shapes_of(model: nn.Module, args: Any, kwargs: Any) -> Any:
    """A key that is equal for calls that do the same operations; None if the arguments are not only tensors and plain
    values."""
    leaves, form = tree_flatten((args, kwargs))
    if any(isinstance(leaf, Constants) and not leaf.is_made for leaf in leaves):  # the call makes them
        return None
    leaves = ["constants" if isinstance(leaf, Constants) else leaf for leaf in leaves]
    if not all(isinstance(leaf, Tensor | bool | int | float | str | torch.dtype | None) for leaf in leaves):
        return None
    plain = ((x.shape, x.stride(), x.dtype, x.is_meta) if isinstance(x, Tensor) else (type(x), x) for x in leaves)
    return id(model), str(form), tuple(plain)


def _of_form(form: Any) -> Tensor:
    shape, stride, dtype = form
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
