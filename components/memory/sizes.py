"""Bytes: read from texts, and counted in what is loaded."""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ...graph.errors import ConfigError

Parts = Mapping[Hashable, int]
"""What takes memory, by its identity, and its bytes: what two components share stands in both under one identity."""

_UNITS = {
    "B": 1,
    **{f"{u}B": 1000**i for i, u in enumerate("KMGT", 1)},
    **{f"{u}iB": 1024**i for i, u in enumerate("KMGT", 1)},
}


def parse_size(size: int | str, what: str) -> int:
    """Bytes from a number or a text such as "8GB" or "512 MiB". ConfigError, beginning with `what`, otherwise.

    >>> parse_size("8GB", "budget"), parse_size("1.5 MiB", "budget"), parse_size(100, "budget")
    (8000000000, 1572864, 100)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", size) if isinstance(size, str) else None
    unit = next((n for name, n in _UNITS.items() if found and found[2].lower() == name.lower()), None)
    if found and unit:
        return int(float(found[1]) * unit)
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    raise ConfigError(f"{what}: came {size!r}, wanted bytes as a number, or a text such as '8GB' or '512MiB'.")


def show_size(count: int) -> str:
    """
    >>> show_size(12), show_size(5_140_000_000)
    ('12 B', '5.1 GB')
    """
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def tensors_of(component: object) -> Iterator[Tensor]:
    """All parameters and buffers; of quantized ones what they are made of, and the scales that hang on them."""
    if isinstance(component, nn.Module):
        for module in component.modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    yield from _plain(tensor)


_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    if type(tensor) in _PLAIN:
        yield tensor
        return
    names: Any = getattr(type(tensor), "__tensor_flatten__", None)  # Any: torch's protocol for such classes is untyped
    if names is not None:
        for name in names(tensor)[0]:
            yield from _plain(getattr(tensor, name))
        return
    yield tensor
    if type(tensor).__module__.startswith("bitsandbytes."):  # in 8 bits the parameter itself has them
        state = getattr(tensor, "quant_state", None)
        for holder in (tensor, state, getattr(state, "state2", None)):
            yield from (held for held in getattr(holder, "__dict__", {}).values() if type(held) is Tensor)


def device_of(component: object) -> str:
    """Where its first tensor is; the CPU for what has none."""
    return next((str(tensor.device) for tensor in tensors_of(component)), "cpu")


def parts_of(component: object) -> Parts:
    """The memory of a component's tensors, each byte once, by where it begins. Only what tensors cover is counted:
    a storage may be a whole file that is mapped."""
    spans = sorted({span for tensor in tensors_of(component) if (span := _span(tensor)) is not None})
    found: dict[Hashable, int] = {}
    device, begin, end = None, 0, -1
    for where, first, last in spans:
        if where == device and first < end:
            end = max(end, last)
        else:
            device, begin, end = where, first, last
        found[device, begin] = end - begin
    return found


def _span(tensor: Tensor) -> tuple[str, int, int] | None:
    if tensor.is_meta or not tensor.numel():
        return None
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return str(tensor.device), begin, begin + (last + 1) * tensor.element_size()


def total(parts: Iterable[Parts]) -> int:
    """Bytes of all parts, what is shared counted once.

    >>> total([{"a": 2, "b": 3}, {"b": 3, "c": 4}])
    9
    """
    union: dict[Hashable, int] = {}
    for each in parts:
        union.update(each)
    return sum(union.values())
