"""Latent spaces: which autoencoder a latent belongs to, as far as it is known."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class LatentSpace:
    """The numbers that distinguish latent spaces. A field that is None is not known, and fits anything.

    `channels` of the latent, `scaling` and `shift` as in the autoencoder's config (latent = (z - shift) * scaling).
    `name` is for people, and is compared only where the numbers do not decide.
    """

    name: str | None = None
    channels: int | None = None
    scaling: float | None = None
    shift: float | None = None

    def fits(self, other: "LatentSpace") -> bool:
        """Whether both may be one space: no number known on both sides differs."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        known = [(a, b) for a, b in pairs[1:] if a is not None and b is not None]
        if known:
            return all(a == b for a, b in known)
        a, b = pairs[0]
        return a is None or b is None or a == b

    def __str__(self) -> str:
        numbers = [f"{self.channels} channels" if self.channels is not None else ""]
        numbers += [f"{k} {getattr(self, k):g}" for k in ("scaling", "shift") if getattr(self, k) is not None]
        known = ", ".join(n for n in numbers if n)
        return f"{self.name} ({known})" if self.name and known else self.name or known or "any"


ANY_SPACE = LatentSpace()
