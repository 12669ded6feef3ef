"""The choice of components that leave a full device: pure functions of a table of each device's memory.

The policy, in order:

1. A leased component stays.
2. The least recently used component leaves first.
3. From a device it goes to the CPU. If the CPU's budget has no room, a component that can be read again from its
   files is dropped. A component that cannot (an object added by hand) takes the CPU's room from those that can.
4. From the CPU it is dropped, if it can be read again.

Components that share tensors move together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..device_map import Parts
from .tensors import total_bytes

CPU, DISK = "cpu", "disk"
Limit = Callable[[str], int | None]
"""The most bytes that a device may hold; None for no limit."""


@dataclass(frozen=True)
class Residency:
    """Where one component is, as the policy sees it.

    device: "disk", "cpu" or a device. parts: its memory there, in bytes. other_parts: its memory on other devices, if a
    device map splits it; it leaves all of them together. last_used: larger is more recent. reloadable: its files have
    it. referenced: something outside the manager refers to it, so it cannot be freed.
    """

    key: str
    name: str
    device: str
    parts: Parts
    last_used: int = 0
    leased: bool = False
    reloadable: bool = True
    referenced: bool = False
    other_parts: Mapping[str, Parts] = field(default_factory=dict[str, Parts])

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that it lies on, the main one first."""
        return self.device, *self.other_parts

    @property
    def all_parts(self) -> Parts:
        """Its memory on all devices."""
        return {part: size for device in self.devices for part, size in self.parts_on(device).items()}

    def parts_on(self, device: str) -> Parts:
        """Its memory on one device."""
        return self.parts if device == self.device else self.other_parts.get(device, {})

    def moved_to(self, device: str) -> "Residency":
        """The same component, all of it on one device."""
        return replace(self, device=device, parts=self.all_parts, other_parts={})

    @property
    def stays(self) -> bool:
        """Whether it cannot be moved or dropped now."""
        return self.leased or self.referenced


@dataclass(frozen=True)
class Move:
    """A component that leaves a device: from where, to where, how many bytes, and why this one."""

    key: str
    name: str
    source: str
    target: str
    bytes: int
    reason: str


class OutOfBudget(Exception):
    """A device has no room, even after all that may leave has left.

    limit and needed: bytes. remaining: what stays on the device, the wanted component with it.
    """

    def __init__(self, device: str, limit: int, needed: int, remaining: Sequence[Residency]) -> None:
        super().__init__(device)
        self.device, self.limit, self.needed, self.remaining = device, limit, needed, tuple(remaining)


def moves_to_fit(wanted: Residency, residents: Iterable[Residency], limit: Limit) -> tuple[Move, ...]:
    """The moves after which `wanted` fits on its devices: no more than are needed, in order.

    Raises:
        OutOfBudget: no moves can make enough room.
    """
    return _merged(_fit(wanted, _loaded(residents), limit))


def moves_to_fit_all(wanted: Iterable[Residency], residents: Iterable[Residency], limit: Limit) -> tuple[Move, ...]:
    """The moves after which all of `wanted` fit together, loaded one after another.

    Raises:
        OutOfBudget: no moves can make enough room.
    """
    loading = {r.key: replace(r, leased=True) for r in wanted}
    state = {key: replace(r, leased=r.leased or key in loading) for key, r in _loaded(residents).items()}
    moves: list[Move] = []
    for resident in loading.values():
        moves += _fit(resident, state, limit)
        state[resident.key] = resident
    return tuple(moves)


def eviction_order(device: str, residents: Iterable[Residency], limit: Limit) -> tuple[Move, ...]:
    """The moves that would empty a device, one after another, as far as the policy allows."""
    state = _loaded(residents)
    moves: list[Move] = []
    while (step := _next_eviction(device, state, limit)) is not None:
        moves += step
        _apply(step, state)
    return tuple(moves)


def over_budget(parts: Mapping[str, Sequence[Parts]], limit: Limit) -> Mapping[str, tuple[int, int]]:
    """The devices that this memory does not fit on: the bytes needed there, and the limit."""
    sums = {device: total_bytes(each) for device, each in parts.items()}
    return {d: (needed, most) for d, needed in sums.items() if (most := limit(d)) is not None and needed > most}


def _loaded(residents: Iterable[Residency]) -> dict[str, Residency]:
    return {r.key: r for r in residents if r.device != DISK}


def _merged(moves: Iterable[Move]) -> tuple[Move, ...]:
    """The same moves, with one move for a component that would go to the CPU and then be dropped."""
    merged: dict[str, Move] = {}
    for move in moves:
        first = merged.get(move.key, move)
        merged[move.key] = replace(first, target=move.target, reason=move.reason)
    return tuple(merged.values())


def _fit(wanted: Residency, state: dict[str, Residency], limit: Limit) -> tuple[Move, ...]:
    """`moves_to_fit`, which applies its moves to `state`."""
    if (now := state.get(wanted.key)) is not None:  # it stays where it is until there is room on the new device
        state[wanted.key] = replace(now, leased=True)
    moves: list[Move] = []
    for device in wanted.devices:
        most = limit(device)
        while most is not None and total_bytes([wanted.parts_on(device), *_parts_on(device, state)]) > most:
            step = _next_eviction(device, state, limit, keep=wanted)
            if step is None:
                remaining = [wanted, *(r for r in state.values() if r.parts_on(device) and r.key != wanted.key)]
                raise OutOfBudget(device, most, total_bytes(r.parts_on(device) for r in remaining), remaining)
            moves += step
            _apply(step, state)
    return _merged(moves)


def _apply(moves: Iterable[Move], state: dict[str, Residency]) -> None:
    for move in moves:
        resident = state.pop(move.key)
        if move.target != DISK:
            state[move.key] = resident.moved_to(move.target)


def _parts_on(device: str, state: Mapping[str, Residency]) -> list[Parts]:
    return [parts for r in state.values() if (parts := r.parts_on(device))]


def _next_eviction(
    device: str, state: Mapping[str, Residency], limit: Limit, keep: Residency | None = None
) -> Sequence[Move] | None:
    """The next component to leave a device, with all that share its tensors, after the moves that make room for them.

    None if nothing may leave. keep: nothing that shares a tensor with it leaves.
    """
    candidates = sorted((r for r in state.values() if r.parts_on(device)), key=lambda r: r.last_used)
    for candidate in candidates:
        group = _sharing(candidate, candidates)
        if any(r.stays or (keep and r.all_parts.keys() & keep.all_parts.keys()) for r in group):
            continue
        if (moves := _evict(group, device, state, limit)) is not None:
            return moves
    return None


def _sharing(one: Residency, others: Sequence[Residency]) -> list[Residency]:
    """A component and all that share tensors with it, directly or through another."""
    group, grown = [one], True
    while grown:
        more = [r for r in others if r not in group and any(r.all_parts.keys() & g.all_parts.keys() for g in group)]
        group += more
        grown = bool(more)
    return group


def _evict(
    group: Sequence[Residency], source: str, state: Mapping[str, Residency], limit: Limit
) -> Sequence[Move] | None:
    """The moves of a group that leaves a device together, after those that make room for it on the CPU. None if it
    cannot leave."""
    reloadable = all(r.reloadable for r in group)
    if source == CPU:
        return [_move(r, DISK, "least recently used") for r in group] if reloadable else None
    most = limit(CPU)
    parts = [r.all_parts for r in group]

    def fits(state: Mapping[str, Residency]) -> bool:
        return most is None or total_bytes([*parts, *_parts_on(CPU, state)]) <= most

    if fits(state):
        return [_move(r, CPU, "least recently used") for r in group]
    if reloadable:
        return [_move(r, DISK, "least recently used, and no room on the CPU") for r in group]
    left = dict(state)
    moves: list[Move] = []
    for old in sorted((r for r in state.values() if r.device == CPU and r.reloadable), key=lambda r: r.last_used):
        sharing = _sharing(old, [r for r in left.values() if r.device == CPU])
        if old.key in left and not any(r.stays or not r.reloadable for r in sharing):
            moves += [_move(r, DISK, "makes room for what cannot be read again") for r in sharing]
            left = {key: r for key, r in left.items() if r not in sharing}
            if fits(left):
                return [*moves, *(_move(r, CPU, "least recently used") for r in group)]
    return None


def _move(resident: Residency, target: str, reason: str) -> Move:
    source = " + ".join(resident.devices)
    return Move(resident.key, resident.name, source, target, total_bytes([resident.all_parts]), reason)
