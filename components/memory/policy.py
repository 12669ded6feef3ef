"""What stays where: decided from a table of facts, by functions that touch nothing.

The policy, in order:

1. What is leased stays.
2. The least recently used goes first.
3. From a device it goes to the CPU. Where the CPU's budget has no room left, what can be read again from its files
   is dropped, and what cannot (an object added by hand) takes the CPU's room from what can.
4. From the CPU it is dropped, if it can be read again.

Components that share tensors move together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .sizes import Parts, total

CPU, DISK = "cpu", "disk"
Limit = Callable[[str], int | None]
"""The bytes that a device may hold, or None for any number."""


@dataclass(frozen=True)
class Fact:
    """One component, as far as the policy looks at it.

    where: "disk", "cpu" or a device. used: larger is more recent. readable: it can be read again from its files.
    stuck: somebody else holds it, so that it cannot be let go. beside: the parts of one that is cut that lie on other
    devices than `where`; it leaves all of them together.
    """

    key: str
    name: str
    where: str
    parts: Parts
    used: int = 0
    leased: bool = False
    readable: bool = True
    stuck: bool = False
    beside: Mapping[str, Parts] = field(default_factory=dict[str, Parts])

    @property
    def devices(self) -> tuple[str, ...]:
        return self.where, *self.beside

    @property
    def all(self) -> Parts:
        return {part: size for device in self.devices for part, size in self.at(device).items()}

    def at(self, device: str) -> Parts:
        """What of it lies on a device."""
        return self.parts if device == self.where else self.beside.get(device, {})

    def moved(self, target: str) -> "Fact":
        return replace(self, where=target, parts=self.all, beside={})

    @property
    def fixed(self) -> bool:
        return self.leased or self.stuck


@dataclass(frozen=True)
class Move:
    """A component that leaves its place, where it goes, the bytes it takes with it, and why it is this one."""

    key: str
    name: str
    source: str
    target: str
    bytes: int
    why: str


class Shortage(Exception):
    """A device has no room, even when all that may go has gone."""

    def __init__(self, device: str, limit: int, needed: int, stays: Sequence[Fact]) -> None:
        super().__init__(device)
        self.device, self.limit, self.needed, self.stays = device, limit, needed, tuple(stays)


def room_for(wanted: Fact, facts: Iterable[Fact], limit: Limit) -> tuple[Move, ...]:
    """The moves after which `wanted` fits where its `where` says. No more than are needed, in their order.

    Raises `Shortage` where no moves can help.
    """
    return _direct(_room_for(wanted, {f.key: f for f in facts if f.where != DISK}, limit))


def _direct(moves: Iterable[Move]) -> tuple[Move, ...]:
    """The same moves, where what would go to the CPU and then be dropped there is dropped at once."""
    found: dict[str, Move] = {}
    for move in moves:
        first = found.get(move.key, move)
        found[move.key] = replace(first, target=move.target, why=move.why)
    return tuple(found.values())


def plan_for(wanted: Iterable[Fact], facts: Iterable[Fact], limit: Limit) -> tuple[Move, ...]:
    """The moves by which all of these come to fit together, one after another. Raises `Shortage`."""
    coming = {f.key: replace(f, leased=True) for f in wanted}
    state = {f.key: replace(f, leased=f.leased or f.key in coming) for f in facts if f.where != DISK}
    moves: list[Move] = []
    for fact in coming.values():
        moves += _room_for(fact, state, limit)
        state[fact.key] = fact
    return tuple(moves)


def _room_for(wanted: Fact, state: dict[str, Fact], limit: Limit) -> tuple[Move, ...]:
    """`room_for`, with what it decides done in `state`."""
    if (now := state.get(wanted.key)) is not None:  # where it lies it stays until there is room where it goes
        state[wanted.key] = replace(now, leased=True)
    moves: list[Move] = []
    for device in wanted.devices:
        most = limit(device)
        while most is not None and total([wanted.at(device), *_at(device, state)]) > most:
            step = _next(device, state, limit, kin=wanted)
            if step is None:
                stays = [wanted, *(f for f in state.values() if f.at(device) and f.key != wanted.key)]
                raise Shortage(device, most, total(f.at(device) for f in stays), stays)
            moves += step
            _do(step, state)
    return _direct(moves)


def order(device: str, facts: Iterable[Fact], limit: Limit) -> tuple[Move, ...]:
    """What would leave a device, one after another, if it had to become empty."""
    state = {f.key: f for f in facts if f.where != DISK}
    moves: list[Move] = []
    while (step := _next(device, state, limit)) is not None:
        moves += step
        _do(step, state)
    return tuple(moves)


def _do(moves: Iterable[Move], state: dict[str, Fact]) -> None:
    for move in moves:
        fact = state.pop(move.key)
        if move.target != DISK:
            state[move.key] = fact.moved(move.target)


def over(parts: Mapping[str, Sequence[Parts]], limit: Limit) -> Mapping[str, tuple[int, int]]:
    """The devices on which this is too much: the bytes needed, and the most there may be."""
    sums = {device: total(each) for device, each in parts.items()}
    return {d: (n, most) for d, n in sums.items() if (most := limit(d)) is not None and n > most}


def _at(device: str, state: Mapping[str, Fact]) -> list[Parts]:
    return [parts for f in state.values() if (parts := f.at(device))]


def _next(device: str, state: Mapping[str, Fact], limit: Limit, kin: Fact | None = None) -> Sequence[Move] | None:
    """The next to leave, with all that shares its tensors and what must make room for them; None if nothing may."""
    waiting = sorted((f for f in state.values() if f.at(device)), key=lambda f: f.used)
    for victim in waiting:
        family = _family(victim, waiting)
        if any(f.fixed or (kin and f.all.keys() & kin.all.keys()) for f in family):
            continue
        if (found := _refuge(device, family, state, limit)) is not None:
            return found
    return None


def _family(one: Fact, others: Sequence[Fact]) -> list[Fact]:
    """A component and all that share tensors with it."""
    found, grown = [one], True
    while grown:
        more = [f for f in others if f not in found and any(f.all.keys() & g.all.keys() for g in found)]
        found += more
        grown = bool(more)
    return found


def _refuge(source: str, family: Sequence[Fact], state: Mapping[str, Fact], limit: Limit) -> Sequence[Move] | None:
    """Where they go together, and who leaves the CPU for them first."""
    readable = all(f.readable for f in family)
    if source == CPU:
        return [_move(f, DISK, "least recently used") for f in family] if readable else None
    most = limit(CPU)
    parts = [f.all for f in family]

    def fits(held: Mapping[str, Fact]) -> bool:
        return most is None or total([*parts, *_at(CPU, held)]) <= most

    if fits(state):
        return [_move(f, CPU, "least recently used") for f in family]
    if readable:
        return [_move(f, DISK, "least recently used, and no room on the CPU") for f in family]
    left = dict(state)
    before: list[Move] = []
    for old in sorted((f for f in state.values() if f.where == CPU and f.readable), key=lambda f: f.used):
        kin = _family(old, [f for f in left.values() if f.where == CPU])
        if old.key in left and not any(f.fixed or not f.readable for f in kin):
            before += [_move(f, DISK, "makes room for what cannot be read again") for f in kin]
            left = {key: f for key, f in left.items() if f not in kin}
            if fits(left):
                return [*before, *(_move(f, CPU, "least recently used") for f in family)]
    return None


def _move(fact: Fact, target: str, why: str) -> Move:
    return Move(fact.key, fact.name, " + ".join(fact.devices), target, total([fact.all]), why)
