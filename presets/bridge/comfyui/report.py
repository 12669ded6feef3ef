"""What became of each node of a workflow, and which files it needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ....registry import counted, printable
from .workflow import Ignored

Fate = Literal["mapped", "family", "hole", "unused"]
"""`mapped`: it is in the graph, or was computed. `family`: its models are of a family that is not here; its block is a
hole. `hole`: no block stands for its type. `unused`: no output of the workflow needs it."""


@dataclass(frozen=True)
class NodeReport:
    """One node. block: its name in the graph, if it is a block of its own. text: the family, the reason, or notes."""

    id: str
    type: str
    title: str
    fate: Fate
    text: str = ""
    block: str = ""


@dataclass(frozen=True)
class NeededFile:
    """A model file. path: where it was found; None where it was not. url: an address that the workflow states."""

    folder: str
    name: str
    path: Path | None
    url: str = ""


@dataclass(frozen=True)
class Report:
    """The import of one workflow. `print(report)` shows it.

    nodes: in the order in which they run. ignored: nodes that do not run, with the reason. files: the model files, with
    the places where they were found. notes: about the whole.
    """

    nodes: tuple[NodeReport, ...]
    ignored: tuple[Ignored, ...]
    files: tuple[NeededFile, ...]
    notes: tuple[str, ...] = ()

    @property
    def holes(self) -> tuple[NodeReport, ...]:
        """The nodes that are holes in the graph, whatever the reason."""
        return tuple(node for node in self.nodes if node.fate in ("family", "hole"))

    @property
    def families(self) -> tuple[str, ...]:
        """The families that the workflow needs and that are not here."""
        return tuple(dict.fromkeys(node.text for node in self.nodes if node.fate == "family"))

    @property
    def missing(self) -> tuple[NeededFile, ...]:
        """The model files that were not found."""
        return tuple(file for file in self.files if file.path is None)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        fates = [node.fate for node in self.nodes]
        counts = [f"{fates.count(fate)} {fate}" for fate in ("mapped", "family", "hole", "unused") if fate in fates]
        yield f"{counted(len(self.nodes), 'node')}: {', '.join(counts) or 'none'}"
        for node in self.nodes:
            if node.fate != "mapped" or node.text:
                block = f" -> {node.block}" if node.block else ""
                text = f": {node.text}" if node.text else ""
                yield f"  {node.fate:7}{_place(node.id, node.type, node.title)}{block}{text}"
        for one in self.ignored:
            yield f"  ignored {_place(one.id, one.type, one.title)}: {one.reason}"
        for file in self.files:
            where = str(file.path) if file.path else f"not found{f', see {file.url}' if file.url else ''}"
            yield f"  file    {printable(file.folder)}/{printable(file.name)}: {printable(where)}"
        yield from (f"  note    {text}" for text in self.notes)


def _place(number: str, kind: str, title: str) -> str:
    name = f" {printable(title)[:60]!r}" if title not in ("", kind) else ""
    return f" {printable(number)} {printable(kind)[:80]}{name}"
