"""Numbers of a model that components beside it must share: control nets, and encoders of its prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OneOf:
    """Values of a key any of which will do."""

    values: tuple[object, ...]

    def __str__(self) -> str:
        return " or ".join(map(str, self.values))


@dataclass(frozen=True)
class Layout:
    """Numbers that must be equal where components work together: a control net's and its denoiser's, the width of a
    prompt's tokens and that of those a denoiser reads.

    A key that one of the two lacks fits anything.
    """

    keys: tuple[tuple[str, object], ...] = ()

    def differing(self, other: "Layout") -> tuple[str, ...]:
        """The keys that are known on both sides and differ."""
        mine = dict(self.keys)
        return tuple(k for k, value in other.keys if k in mine and not {*_values(mine[k])} & {*_values(value)})

    def fits(self, other: "Layout") -> bool:
        """Whether no key that both know differs."""
        return not self.differing(other)

    def text(self, keys: tuple[str, ...]) -> str:
        """These keys with their values, for people."""
        own = dict(self.keys)
        return ", ".join(f"{key} {own[key]}" for key in keys)

    def __str__(self) -> str:
        return self.text(tuple(key for key, _ in self.keys))


ANY_LAYOUT = Layout()


class Measured:
    """A tag on a port: numbers of its values, each a sum of config values of the components that the block holds.

    `Annotated[Text, Measured(token_width=("text_encoder.hidden_size", "text_encoder_2.hidden_size"))]`. A name without
    a dot is a field of the block. Where one of them is not known, the number is not.
    """

    def __init__(self, **sums: Sequence[str]) -> None:
        self.sums = {key: tuple(names) for key, names in sums.items()}

    def of(self, parts: Mapping[str, Any]) -> tuple[Layout, tuple[str, ...]]:  # Any: components and fields of any class
        """The numbers that are known, and the names of the components and fields that they are read from."""
        sums: dict[str, object] = {}
        names: list[str] = []
        for key, terms in self.sums.items():
            numbers = [number_in(parts, part) for part in terms]
            known = [number for number in numbers if number is not None]
            if len(known) == len(numbers):
                sums[key] = sum(known)
                names += [part.partition(".")[0] for part in terms]
        return Layout(tuple(sums.items())), tuple(dict.fromkeys(names))


def number_in(parts: Mapping[str, Any], name: str) -> int | None:
    """A field of a block, or "component.key" of a config, of an object or in a file; None for what is no number."""
    holder, _, key = name.partition(".")
    value = parts.get(holder)
    if key:
        config = getattr(value, "config", None)
        value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
    return value if isinstance(value, int) else None


def _values(value: object) -> tuple[object, ...]:
    return value.values if isinstance(value, OneOf) else (value,)
