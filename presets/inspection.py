"""The result of `sf.inspect`: a record of a checkpoint, whose `str` is a table."""

from dataclasses import dataclass

from ..components.loading.code.isolated.protections import Protection, protection_table, system
from ..registry import printable_lines


@dataclass(frozen=True)
class InspectedComponent:
    """One component of an `Inspection`."""

    name: str
    class_name: str
    source: str
    """Its folder, repo or file, with the subfolder; "an object" for one that is bound as an object."""
    dtype: str = ""
    """The dtypes of its weights on disk, the most frequent first; "" if it has no weights."""
    bytes: int = 0
    """Bytes of its weight files."""
    parameters: int = 0
    """The number of values in its weights."""
    used: bool = True
    """Whether a task of the family needs it."""
    missing: tuple[str, ...] = ()
    """The reasons why it cannot be loaded, a line each."""


@dataclass(frozen=True)
class Inspection:
    """The content of a preset, folder, repo, file or graph. `str` of it is a table."""

    source: str
    """The argument of `sf.inspect`."""
    folder: str | None
    """Its folder or repo; None for a graph and a single file."""
    class_name: str | None
    """The pipeline class that the index names; None if there is no index."""
    family: str | None
    """The family of presets that serves it; None if none does."""
    tasks: tuple[str, ...]
    """The tasks of the family."""
    components: tuple[InspectedComponent, ...]
    missing: tuple[str, ...]
    """The reasons why a task cannot run, a line each: missing components and files, unknown classes."""
    layout: str = ""
    """The models of a single file, and the author of its tensor names."""
    code: str = ""
    """The code beside it: files, hashes and imports. None of it was run."""
    isolation: tuple[Protection, ...] = ()
    """The rights of the code on this machine if it runs in a separate process. Empty without code."""

    @property
    def bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(part.bytes for part in self.components)

    @property
    def parameters(self) -> int:
        """Parameters of all components."""
        return sum(part.parameters for part in self.components)

    def __str__(self) -> str:
        kind = self.family or "no family that is known"
        head = [f"{self.source}", f"  family      {kind}", f"  tasks       {', '.join(self.tasks) or 'none'}"]
        if self.layout:
            head.append(f"  file        {self.layout}")
        if self.folder:
            head.append(f"  folder      {self.folder}")
        if self.parameters:
            head.append(f"  size        {_count(self.parameters)} parameters, {_size(self.bytes)} on disk")
        table = [("component", "class", "dtype", "parameters", "size", "source")]
        table += [_row(part, self.folder) for part in self.components]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        lines = [*head, "", *(f"  {row.rstrip()}" for row in rows)] if self.components else head
        if self.code:
            lines += ["", "  code", *(f"  {line}" for line in self.code.splitlines())]
        if self.isolation:
            lines += ["", f"  in a separate process ({system()})"]
            lines += [f"    {line}" for line in protection_table(self.isolation).splitlines()]
        if self.missing:
            lines += ["", "  missing", *(f"    {line}" for line in self.missing)]
        return "\n".join(map(printable_lines, lines))


def _row(part: InspectedComponent, folder: str | None) -> tuple[str, ...]:
    size = (_count(part.parameters), _size(part.bytes)) if part.parameters else ("-", "-")
    source = part.source.removeprefix(f"{folder}/") if folder else part.source
    shown = source if part.used else f"{source} (no task uses it)"
    return part.name, part.class_name, part.dtype or "-", *size, shown


def _count(number: int) -> str:
    for factor, unit in ((1e9, " B"), (1e6, " M"), (1e3, " K")):
        if number >= factor:
            return f"{number / factor:.2f}{unit}"
    return str(number)


def _size(number: int) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"
