"""Everything that can go wrong, as one tree.

* SfumatoError
  + GraphError              something about a graph
    - WireError             a graph that cannot be made, changed or bound as asked; lists every problem
    - InputError            a call with unknown, missing or unfit values; lists every problem
    - GraphFileError        a graph file that cannot be read or written
    - Unbound               a block that runs before its component is there
    - Malformed             a class that cannot be a block; says what to write
    - BrokenBlock           a block that does not give what its signature says
    - Cancelled             a run that was asked to stop
  + ConfigError             a config with unknown, missing or unfit keys
  + LoadError               a checkpoint, folder or index that cannot be loaded; says which part and why

A name that no table has raises `sfumato.registry.UnknownName`, a LookupError.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class SfumatoError(Exception):
    """Base of all errors of this package."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and the way out.

    `code` is stable, for programs. `got` was passed at `place` where `needed` was expected. `candidates` are similar
    names.
    """

    code: str
    place: str
    message: str
    got: str = ""
    needed: str = ""
    candidates: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.place}  {self.message}"


class GraphError(SfumatoError):
    """Something about a graph."""


class _Listed(GraphError):
    """An error that carries all problems at once and prints them as a table."""

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(self._text())

    def _text(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        width = max(len(p.place) for p in self.problems)
        rows = "\n".join(f"  {p.place:<{width}}  {p.message}" for p in self.problems)
        return f"({len(self.problems)} problems)\n{rows}"


class WireError(_Listed):
    """A graph that cannot be made, changed or bound as asked."""


class InputError(_Listed, TypeError):
    """A call with unknown, missing or unfit values."""


class GraphFileError(GraphError):
    """A graph file that cannot be read or written."""


class Unbound(GraphError, AttributeError):
    """A block that runs before its component is there."""


class Malformed(GraphError, TypeError):
    """A class that cannot be a block; the text says what to write."""


class BrokenBlock(GraphError, TypeError):
    """A block that does not give what its own signature says."""


class Cancelled(GraphError):
    """A run that was asked to stop; the text is the path of the node that it stopped before."""


class ConfigError(SfumatoError, ValueError):
    """A config with unknown, missing or unfit keys."""


class LoadError(SfumatoError):
    """A checkpoint, folder or index that cannot be loaded."""
