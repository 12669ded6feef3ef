"""What a manager says of itself, and of what it has no room for."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from ..handle import Added, Handle
from .holdings import LOADING, Entry, Holdings
from .policy import CPU, DISK, Limit, Shortage, over
from .sizes import show_size, total


class Held(NamedTuple):
    """A row of `ComponentsManager.summary()`: one component that was asked for, and what it takes.

    device: where it is used. where: where it lies now; "disk" while it is not loaded. used_by: the runs that hold it.
    last_used: seconds since 1970, 0 for never. leaves: how soon it would make room for others, 1 being the first;
    0 while it stays.
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
    """The table that `repr(manager)` shows."""
    lines = [("name", "class", "source", "dtype", "where", "size", "last use", "used by")]
    lines += [
        (r.name, r.class_name, _short(r.source), r.dtype, _where(r), show_size(r.bytes) if r.loaded else "-", _ago(r),
         ", ".join(r.used_by) or "-")
        for r in rows
    ]  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([head, *(f"  {line.rstrip()}" for line in padded)]) if rows else head


def _short(source: str) -> str:
    """The end of a long path, which tells components apart."""
    parts = source.split("/")
    return "/".join(["…", *parts[-3:]]) if len(parts) > 4 else source


def _where(row: Held) -> str:
    return (
        row.where
        if row.where == row.device or not row.loaded or row.device == "-"
        else f"{row.where}, for {row.device}"
    )


def _ago(row: Held) -> str:
    if not row.last_used:
        return "never"
    seconds = max(time.time() - row.last_used, 0.0)
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def row(handle: Handle, entry: Entry | None, used_by: tuple[str, ...], leaves: int) -> Held:
    """The row of one component."""
    spec, component = handle.spec, None if entry is None else entry.component
    path = spec.pretrained_model_name_or_path
    source = "inline config" if spec.config is not None else "/".join(p for p in (path, spec.subfolder) if p) or "none"
    hint = spec.type_hint[1] if spec.type_hint else "unknown"
    weighty = entry is None or component is None or isinstance(component, nn.Module)
    kept = f" kept in {entry.offload.storage}" if entry and entry.offload.storage else ""
    return Held(
        key=handle.key,
        name=handle.name,
        class_name=handle.kind.__name__ if isinstance(handle, Added) else hint,
        source="added by hand" if isinstance(handle, Added) else source,
        dtype=f"{entry.dtype if entry else handle.dtype}{kept}" if weighty else "-",
        device=str((entry.device_map or entry.device) if entry else (handle.device_map or handle.device))
        if weighty
        else "-",
        where=(entry.where if entry else DISK) if weighty else "-",
        bytes=total([entry.parts]) if entry else 0,
        loaded=component is not None,
        used_by=used_by,
        last_used=entry.seen if entry else 0.0,
        leaves=leaves,
    )


def lack_text(leases: Sequence[Sequence[Entry]], holdings: Holdings, limit: Limit) -> str:
    """What there is not enough of for these leases together; "" where all fit."""
    demand = holdings.demand(leases)
    for device, (needed, most) in over(demand, limit).items():
        entries = {entry.key: entry for lease in leases for entry in lease}
        sizes = {e.name: _on(e, device) for e in entries.values() if _on(e, device)}
        if others := holdings.others(device, entries):
            sizes["what was let go and others still hold"] = others
        if loading := sum(parts.get(LOADING, 0) for parts in demand[device]):
            sizes["what loading takes"] = loading
        return _lack(device, most, needed, sizes)
    return ""


def _on(entry: Entry, device: str) -> int:
    return total([entry.needs.get(device, {})]) + (entry.window if entry.device == device else 0)


def short_text(short: Shortage) -> str:
    """The same for what was decided on facts."""
    sizes = {f.name + (" still held by others" if f.stuck else ""): total([f.at(short.device)]) for f in short.stays}
    return _lack(short.device, short.limit, short.needed, sizes)


def _lack(device: str, most: int, needed: int, sizes: Mapping[str, int]) -> str:
    named = [name for name in sizes if " " not in name]
    largest = max(named, key=lambda name: sizes[name], default="unet")
    parts = ", ".join(f"{name} {show_size(size)}" for name, size in sorted(sizes.items(), key=lambda s: -s[1]))
    ways = [
        "give a larger budget",
        "load in a narrower dtype",
        f'pack weights: sf.load(…, quantization={{"{largest}": "nf4"}})',
    ]
    if device != CPU:  # there it is read as a whole, and lies while it streams
        ways.insert(1, f'bring the largest in parts: manager.offload("{largest}", by="blocks")')
        ways.append(f'keep it in a narrower dtype: manager.offload("{largest}", storage="float8_e4m3fn")')
    return (
        f"The memory budget of {device} is {show_size(most)}, and {show_size(needed)} are needed there at once: "
        f"{parts}. Ways out: {'; '.join(ways)}."
    )
