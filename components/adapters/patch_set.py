"""The patches of one file, by the names of the file."""

from dataclasses import dataclass
from pathlib import Path

from .embedding import Embedding
from .patches import Patch


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
    file: the file on this machine; None for patches that were made in memory.
    """

    source: str
    patches: tuple[NamedPatch, ...]
    notes: tuple[str, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    file: Path | None = None
