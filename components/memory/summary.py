"""The manager's table of its components, and its texts for missing memory."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from ...registry import printable
from ..handle import Handle
from .entry import LOADING_PART, Entry
from .inventory import Inventory
from .policy import CPU, DISK, Limit, OutOfBudget, over_budget
from .sizes import show_size
from .tensors import total_bytes


class Held(NamedTuple):
    """A row of `ComponentsManager.summary()`: one component, and the memory that it takes.

    device: where it is used. where: where it is now; "disk" while it is not loaded. bytes: its memory. used_by: the
    owners of its leases. last_used: seconds since 1970, 0 for never. leaves: its place in the order of eviction, 1
    for the first to leave; 0 if it stays.
    """

    key: str
    name: str
    class_name: str
    source: str
    dtype: str
    device: str
    where: str
    bytes: int
    loaded: bool
    used_by: tuple[str, ...] = ()
    last_used: float = 0.0
    leaves: int = 0


def render(head: str, rows: Sequence[Held]) -> str:
    """The table that `repr(manager)` shows, below a first line."""
    lines = [("name", "class", "source", "dtype", "where", "size", "last use", "used by")]
    lines += [
        (r.name, r.class_name, _short(r.source), r.dtype, _where(r), show_size(r.bytes) if r.loaded else "-", _ago(r),
         ", ".join(r.used_by) or "-")
        for r in rows
    ]  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([head, *(f"  {printable(line.rstrip())}" for line in padded)]) if rows else head


def _short(source: str) -> str:
    """The end of a long path, which tells components apart."""
    parts = source.split("/")
    return "/".join(["…", *parts[-3:]]) if len(parts) > 4 else source


def _where(row: Held) -> str:
    is_in_place = row.where == row.device or not row.loaded or row.device == "-"
    return row.where if is_in_place else f"{row.where}, for {row.device}"


def _ago(row: Held) -> str:
    if not row.last_used:
        return "never"
    seconds = max(time.time() - row.last_used, 0.0)
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def row_of(handle: Handle, entry: Entry | None, used_by: tuple[str, ...], leaves: int) -> Held:
    """The row of one component. entry: None if it was never loaded or leased."""
    component = None if entry is None else entry.component
    has_weights = entry is None or component is None or isinstance(component, nn.Module)
    storage = f" kept in {entry.offload.storage}" if entry and entry.offload.storage else ""
    used_on = entry or handle
    return Held(
        key=handle.key,
        name=handle.name,
        class_name=handle.class_name,
        source=handle.source,
        dtype=f"{used_on.dtype}{storage}" if has_weights else "-",
        device=str(used_on.device_map or used_on.device) if has_weights else "-",
        where=(entry.current if entry else DISK) if has_weights else "-",
        bytes=total_bytes([entry.parts]) if entry else 0,
        loaded=component is not None,
        used_by=used_by,
        last_used=entry.last_used_at if entry else 0.0,
        leaves=leaves,
    )


def shortage_of_leases(leases: Sequence[Sequence[Entry]], inventory: Inventory, limit: Limit) -> str:
    """The error text if these leases do not fit in memory together; "" if they do."""
    demand = inventory.demand(leases)
    for device, (needed, most) in over_budget(demand, limit).items():
        entries = {entry.key: entry for lease in leases for entry in lease}
        sizes = {e.name: _bytes_on(e, device) for e in entries.values() if _bytes_on(e, device)}
        if unfreed := inventory.unfreed_bytes_on(device, apart_from=entries):
            sizes["dropped components that are still in use"] = unfreed
        if loading := sum(parts.get(LOADING_PART, 0) for parts in demand[device]):
            sizes["loading (temporary)"] = loading
        return _shortage(device, most, needed, sizes)
    return ""


def _bytes_on(entry: Entry, device: str) -> int:
    streamed = entry.streaming_bytes if entry.device == device else 0
    return total_bytes([entry.parts_when_ready.get(device, {})]) + streamed


def shortage_of(error: OutOfBudget) -> str:
    """The error text for a device that has no room."""
    sizes = {
        r.name + (" (dropped, still in use)" if r.referenced else ""): total_bytes([r.parts_on(error.device)])
        for r in error.remaining
    }
    return _shortage(error.device, error.limit, error.needed, sizes)


def _shortage(device: str, most: int, needed: int, sizes: Mapping[str, int]) -> str:
    names = [name for name in sizes if " " not in name]
    largest = max(names, key=lambda name: sizes[name], default="unet")
    parts = ", ".join(f"{name} {show_size(size)}" for name, size in sorted(sizes.items(), key=lambda s: -s[1]))
    remedies = [
        "give a larger budget",
        "load in a narrower dtype",
        f'pack weights: sf.load(…, quantization={{"{largest}": "nf4"}})',
    ]
    if device != CPU:  # on the CPU a component is read as a whole, and is stored there while it streams
        remedies.insert(1, f'stream the largest: manager.offload("{largest}", by="blocks")')
        remedies.append(f'store it in a narrower dtype: manager.offload("{largest}", storage="float8_e4m3fn")')
    return (
        f"The memory budget of {device} is {show_size(most)}, and {show_size(needed)} are needed there at once: "
        f"{parts}. You can: {'; '.join(remedies)}."
    )
