"""Tables of names whose values are imported at their first use."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from itertools import islice
from typing import Any

from .text import printable, shortened


class UnknownName(LookupError):
    """An unknown name. The text has similar names and what to do."""

    def __str__(self) -> str:
        return printable(shortened(super().__str__(), 2_000))


def closest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that are most similar to `name`, best first, without regard to case.

    Words that both names have do not count: two pipelines are not similar because both end with "Pipeline".

    >>> closest("denoize", ["encode", "denoise", "decode"])
    ['denoise', 'decode']
    >>> closest("WanPipeline", ["FluxPipeline"]), closest("image_encoder", ["text_encoder"])
    ([], [])
    """
    if len(name) > _LONGEST:  # no name of ours, and comparing takes the product of the lengths
        return []
    is_class = name[:1].isupper()
    by_lower: dict[str, str] = {}
    for candidate in islice((each for each in known if len(each) <= _LONGEST), _MOST):
        if _is_near(name, candidate, is_class=is_class):
            by_lower.setdefault(candidate.lower(), candidate)
    cutoff = 0.75 if is_class else 0.6
    return [by_lower[hit] for hit in difflib.get_close_matches(name.lower(), by_lower, n=count, cutoff=cutoff)]


_LONGEST, _MOST = 128, 1_000
"""Longer names, and further ones, are not compared."""
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")


def _is_near(name: str, candidate: str, *, is_class: bool) -> bool:
    """Whether the words that only one of the names has are similar.

    Class names are compared strictly, since one more word or another digit makes another class:
    "StableVideoDiffusionPipeline" is no "StableDiffusionPipeline", and "Flux2Pipeline" no "FluxPipeline".
    """
    if name.lower() == candidate.lower():
        return True
    mine, theirs = (Counter(word.lower() for word in _WORD.findall(text)) for text in (name, candidate))
    added, missing = "".join(mine - theirs), "".join(theirs - mine)
    if is_class and (len(added) > len(missing) + 2 or _digits(added) - _digits(missing)):
        return False
    if not added or not missing:
        return not (added and is_class)
    if _ratio(added, missing) >= (0.75 if is_class else 0.6):
        return True
    return _ratio(name.lower(), candidate.lower()) >= (0.9 if is_class else 0.85)


def _digits(text: str) -> Counter[str]:
    return Counter(filter(str.isdigit, text))


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Two sentences for an unknown name: the most similar known name, then all known names.

    >>> did_you_mean("denoize", ["encode", "denoise"])
    "Did you mean 'denoise'? There are: encode, denoise."
    """
    known = list(known)
    guess = closest(name, known, 1)
    shown = known if len(known) <= 24 else [*known[:24], "…"]
    question = f"Did you mean {guess[0]!r}? " if guess else ""
    return question + (f"There are: {', '.join(shown)}." if shown else "There are none.")


def with_article(noun: str) -> str:
    """A noun or class name with its article.

    >>> with_article("AutoencoderKL"), with_article("UNet2DConditionModel"), with_article("SD3Transformer2DModel")
    ('an AutoencoderKL', 'a UNet2DConditionModel', 'an SD3Transformer2DModel')
    """
    return f"an {noun}" if noun.startswith((*"AEIOaeio", "SD")) else f"a {noun}"


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "picture"), counted(2, "picture")
    ('1 picture', '2 pictures')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def imported(path: str) -> Any:
    """The object at a "module:attribute" path."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class LazyFunction:
    """A function that is imported when it is called.

    >>> LazyFunction("math:sqrt")(9)
    3.0
    """

    path: str
    """ "module:attribute". """

    def __call__(self, *args: Any, **keywords: Any) -> Any:  # Any: those of the function
        """Import the function and call it."""
        return imported(self.path)(*args, **keywords)


class Names(Mapping[str, Any]):
    """A table of classes or functions by name. A value may be a "module:attribute" path, imported at its first use.

    A package adds its own names with the entry point group `sfumato.<kind>s`, for example
    `[project.entry-points."sfumato.schedulers"]  MyScheduler = "my_package.fast:MyScheduler"`.
    """

    def __init__(self, kind: str, table: Mapping[str, Any] | None = None, aliases: Mapping[str, str] | None = None):
        self.kind = kind
        self.aliases = dict(aliases or {})
        self._table: dict[str, Any] = dict(table or {})
        self._plugins_read = False
        self.replaced = 0
        """How many times a name got another object. What was made by its name before is stale then."""

    def add(self, name: str, thing: Any) -> None:
        """Register an object, or its "module:attribute" path, under a name. It replaces an older entry of that name."""
        self.replaced += self._table.get(name, thing) is not thing
        self._table[name] = thing

    def find(self, name: str) -> Any | None:
        """The object of that name, or None."""
        name = self.aliases.get(name, name)
        if name not in self._table:
            self._read_plugins()
        thing = self._table.get(name)
        if isinstance(thing, str):
            thing = self._table[name] = imported(thing)
        return thing

    def name_of(self, thing: Any) -> str | None:
        """The name under which exactly this class or function is registered, or None."""
        where = f"{thing.__module__}:{thing.__qualname__}"
        return next((name for name, value in self._table.items() if value is thing or value == where), None)

    def __getitem__(self, name: str) -> Any:
        thing = self.find(name)
        if thing is None:
            raise UnknownName(f"No {self.kind} is called {name!r}. {did_you_mean(name, [*self, *self.aliases])}")
        return thing

    def __contains__(self, name: object) -> bool:
        self._read_plugins()
        return name in self._table or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        self._read_plugins()
        return iter(self._table)

    def __len__(self) -> int:
        self._read_plugins()
        return len(self._table)

    def _read_plugins(self) -> None:
        if not self._plugins_read:
            self._plugins_read = True
            for entry in entry_points(group=f"sfumato.{self.kind}s"):
                self._table.setdefault(entry.name, entry.value)
