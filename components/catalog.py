"""The components that a manager knows: by key, by name, and in collections."""

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..graph.errors import ConfigError
from ..registry import did_you_mean
from .handle import Handle


class Catalog:
    """Handles by key, with all names that each was given, in the order in which they were added. Safe to use from many
    threads."""

    def __init__(self) -> None:
        self._handles: dict[str, Handle] = {}
        self._names: dict[str, dict[str, None]] = {}
        self._collections: dict[str, dict[str, None]] = {}
        self._lock = threading.Lock()

    def add(self, handle: Handle) -> None:
        """Add a handle, or its name to an equal one."""
        with self._lock:
            self._handles.setdefault(handle.key, handle)
            self._names.setdefault(handle.key, {})[handle.name] = None

    def add_name(self, key: str, name: str) -> Handle | None:
        """Give a component another name. Its handle, or None if the key is not known."""
        with self._lock:
            if key in self._handles:
                self._names[key][name] = None
            return self._handles.get(key)

    def remove(self, key: str) -> None:
        """Forget a component, its names, and its place in collections."""
        with self._lock:
            self._handles.pop(key, None)
            self._names.pop(key, None)
            for keys in self._collections.values():
                keys.pop(key, None)

    def handles(self) -> list[Handle]:
        """All handles."""
        with self._lock:
            return list(self._handles.values())

    def search(self, pattern: str, collection: str | None = None) -> list[Handle]:
        """The handles of which a name matches; see `ComponentsManager.search`."""
        with self._lock:
            if collection is not None and collection not in self._collections:
                raise ConfigError(f"no collection {collection!r}. {did_you_mean(collection, self._collections)}")
            if pattern in self._handles:
                return [self._handles[pattern]]
            inside = self._handles if collection is None else self._collections[collection]
            matches, negated = Pattern(pattern.removeprefix("!")), pattern.startswith("!")
            found = ((key, handle) for key, handle in self._handles.items() if key in inside)
            return [handle for key, handle in found if any(map(matches, self._names[key])) != negated]

    def collect(self, collection: str, handles: Iterable[Handle]) -> None:
        """Add handles to a collection, which is made if it does not exist."""
        keys = dict.fromkeys(handle.key for handle in handles)
        with self._lock:
            self._collections.setdefault(collection, {}).update(keys)

    def collections(self) -> Mapping[str, list[Handle]]:
        """The handles of each collection."""
        with self._lock:
            return {name: [self._handles[key] for key in keys] for name, keys in self._collections.items()}


@dataclass(frozen=True)
class Pattern:
    """A pattern of names, as diffusers has them: `*` stands for any letters, `|` is "or", a leading `!` negates all of
    it.

    >>> [Pattern(p)("text_encoder_2") for p in ("text*", "*encoder*", "unet|vae", "!unet|vae", "!*_2")]
    [True, True, False, True, False]
    """

    text: str

    def __call__(self, name: str) -> bool:
        """Whether a name matches."""
        return (self._compiled.fullmatch(name) is not None) != self.text.startswith("!")

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        names = self.text.removeprefix("!").split("|")
        return re.compile("|".join(".*".join(map(re.escape, name.strip().split("*"))) for name in names))
