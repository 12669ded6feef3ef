"""The patches of one file, by the names of the file."""

from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from .embedding import Embedding
from .patches import LowRank, Patch


@dataclass(frozen=True)
class NamedPatch:
    """A patch, and the name by which the file calls its matrix. kind: "LoRA", "DoRA" … for reports."""

    body: str
    kind: str
    patch: Patch


@dataclass(frozen=True, eq=False)
class PatchSet:
    """All patches of a file, in its order. Adapters that differ in strength share one.

    source: the file, folder or repo. notes: on the file, for people. embeddings: those that the file has too.
    file: the file on this machine; None for patches that were made in memory. rank: the one to which the factors of
    the file were padded; 0 if they were not. number: tells it from all others of this process.
    """

    source: str
    patches: tuple[NamedPatch, ...]
    notes: tuple[str, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    file: Path | None = None
    rank: int = 0
    number: int = field(default_factory=count().__next__, init=False)

    def padded(self, rank: int) -> "PatchSet":
        """The same patches with zeros in their factors up to this rank."""
        patches = tuple(
            replace(p, patch=p.patch.padded(rank)) if isinstance(p.patch, LowRank) else p for p in self.patches
        )
        return replace(self, patches=patches, rank=rank)
