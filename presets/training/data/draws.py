"""Random numbers that depend on their place alone, such as (seed, epoch, sample, "flip")."""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class Draws:
    """Random numbers of a place. They are hashes of it, so no generator is carried from one to the next.

    The same place has the same numbers on every machine, in every process, and after a resume.
    """

    place: tuple[int | str, ...]

    def at(self, *more: int | str) -> "Draws":
        """The numbers of a place within this one."""
        return Draws((*self.place, *more))

    def bits(self) -> int:
        """A whole number of 64 bits."""
        return int.from_bytes(blake2b(repr(self.place).encode(), digest_size=8).digest(), "big")

    def number(self) -> float:
        """A number from 0 to 1, without 1."""
        return (self.bits() >> 11) * 2.0**-53

    def below(self, count: int) -> int:
        """A whole number from 0 to count - 1."""
        return self.bits() * count >> 64

    def order(self, count: int) -> list[int]:
        """The numbers from 0 to count - 1, shuffled."""
        return sorted(range(count), key=lambda i: (self.at(i).bits(), i))
