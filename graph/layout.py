"""What a model is inside, as far as what adds to it from outside must know."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Keys of a config that must be equal where one model adds to what another works on: a control net to a denoiser.

    A key that one of the two lacks fits anything.
    """

    keys: tuple[tuple[str, object], ...] = ()

    def differing(self, other: "Layout") -> tuple[str, ...]:
        """The keys that are known on both sides and differ."""
        mine = dict(self.keys)
        return tuple(key for key, value in other.keys if key in mine and mine[key] != value)

    def fits(self, other: "Layout") -> bool:
        return not self.differing(other)

    def merged(self, other: "Layout") -> "Layout":
        """Both together; what is unknown here is taken from `other`."""
        return Layout(tuple({**dict(other.keys), **dict(self.keys)}.items()))

    def said(self, keys: tuple[str, ...]) -> str:
        """These keys with their values, for people."""
        own = dict(self.keys)
        return ", ".join(f"{key} {own[key]}" for key in keys)

    def __str__(self) -> str:
        return self.said(tuple(key for key, _ in self.keys))


ANY_LAYOUT = Layout()
