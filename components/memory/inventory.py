"""The components that a manager has in memory, and the memory that its leases need. It moves nothing."""

from collections.abc import Callable, Collection, Iterable, Mapping

from ..device_map import Parts
from .entry import LOADING_PART, Entry, Unfreed
from .mover import Mover
from .policy import Residency
from .tensors import total_bytes


class Inventory:
    """The entries of a manager, and the dropped components that are still in memory.

    entries: the components, by key. removed: entries that were removed while they were leased. They leave when their
    last lease ends, and are kept if they are requested before. leased: gives the number of leases by key.
    """

    def __init__(self, mover: Mover, leased: Callable[[], Mapping[str, int]]) -> None:
        self.entries: dict[str, Entry] = {}
        self.removed: dict[str, Entry] = {}
        self._mover, self._leased = mover, leased
        self._unfreed: list[Unfreed] = []

    def residents(self) -> list[Residency]:
        """The components in memory, as the policy sees them."""
        leased = self._leased()
        entries = [*self.entries.values(), *self.removed.values()]
        found = [entry.residency(entry.key in leased) for entry in entries if entry.parts]
        streaming = [entry for entry in entries if entry.key in leased and entry.streaming_bytes]
        found += [entry.streaming_residency(leased[entry.key]) for entry in streaming]
        return found + [one.residency() for one in self.unfreed()]

    def demand(self, leases: Iterable[Iterable[Entry]]) -> Mapping[str, list[Parts]]:
        """The memory that these leases need together, by device, and the memory that cannot be freed there."""
        found: dict[str, list[Parts]] = {}
        loading: dict[str, int] = {}
        for number, lease in enumerate(leases):
            for entry in lease:
                for device, parts in self._parts_when_ready(entry).items():
                    found.setdefault(device, []).append(parts)
                for device, size in self._loading_bytes(entry).items():  # one is loaded after another
                    loading[device] = max(loading.get(device, 0), size)
                if entry.streaming_bytes:
                    found.setdefault(entry.device, []).append({(entry.key, number): entry.streaming_bytes})
        for one in self.unfreed():
            for device, parts in one.parts_now.items():
                found.setdefault(device, []).append(parts)
        for device, size in loading.items():
            found.setdefault(device, []).append({LOADING_PART: size})
        return found

    def _loading_bytes(self, entry: Entry) -> Mapping[str, int]:
        loads = entry.component is None and self.unfreed_of(entry.key) is None
        return entry.loading_bytes if loads else {}

    def _parts_when_ready(self, entry: Entry) -> Mapping[str, Parts]:
        if entry.component is None and (one := self.unfreed_of(entry.key)) is not None:
            target = str(entry.target)
            return one.parts_now if one.current == target else {target: one.parts}
        return entry.parts_when_ready

    def derived_from(self, keys: Collection[str]) -> list[Entry]:
        """The components that are computed from these, the one that was used last first."""
        found = [entry for entry in self.entries.copy().values() if entry.base in keys]
        return sorted(found, key=lambda entry: -entry.last_used)

    def unfreed(self) -> list[Unfreed]:
        """The dropped components that are still in memory."""
        return [one for one in list(self._unfreed) if one.exists]

    def unfreed_of(self, key: str) -> Unfreed | None:
        """The dropped component of this key whose object still exists, so that it need not be read again."""
        return next((one for one in self.unfreed() if one.key == key and one.component() is not None), None)

    def add_unfreed(self, one: Unfreed | None) -> None:
        """Count a dropped component until it is freed; forget those that are."""
        self._unfreed = self.unfreed()
        if one is not None:
            self._unfreed.append(one)

    def take_back(self, one: Unfreed) -> None:
        """Stop counting a dropped component: its entry has it again."""
        self._unfreed.remove(one)

    def unfreed_bytes_on(self, device: str, apart_from: Collection[str]) -> int:
        """Bytes of dropped components on a device, but for those of these keys."""
        others = [one for one in self.unfreed() if one.key not in apart_from]
        return total_bytes(one.parts_now[device] for one in others if device in one.parts_now)

    @property
    def bytes(self) -> int:
        """Bytes of all entries, each byte once."""
        return total_bytes(self._mover.parts(entry.component) for entry in list(self.entries.values()))

    @property
    def unfreed_bytes(self) -> int:
        """Bytes of removed or dropped components that are still in memory."""
        removed = [self._mover.parts(entry.component) for entry in list(self.removed.values())]
        return total_bytes([*removed, *(one.parts for one in self.unfreed())])
