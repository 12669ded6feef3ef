"""The errors of this package, as one tree.

* SfumatoError
  + GraphError              something about a graph
    - WireError             a graph that cannot be made, changed or bound in this way; lists every problem
    - InputError            a call with unknown, missing or wrong values; lists every problem
    - GraphFileError        a graph file that cannot be read or written
    - Unbound               a block that runs without a component that it needs
    - Malformed             a class that is no valid block; says what to write
    - BrokenBlock           a block that does not return what its signature says
    - BlockFailed           a block whose computation torch refused, such as sizes that do not fit
    - NotFinite             NaN or infinity in a run within debug()
    - ProcessFailed         a run of several processes that ended since another one failed
    - Cancelled             a run that was cancelled
      . Paused              a run that was paused; `sf.resume(run.state)` goes on
  + ConfigError             a config with unknown, missing or wrong keys
  + LoadError               a checkpoint, folder or index that cannot be loaded; says which part and why
  + SaveError               a file or folder that cannot be saved; what was there is unchanged
  + RemoteError             a component behind an address that did not answer as it should
  + PictureError            a picture file that cannot be read
  + UnfitValue              a value with which a block or a model cannot compute, such as a size or a shape

An unknown name of a scheduler, guider, model, block or preset raises `sfumato.registry.UnknownName`, a LookupError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..registry import printable_lines


class SfumatoError(Exception):
    """Base of all errors of this package. The lines below the first are indented by two spaces or more.

    The text shows control characters as escapes, since it may have names from files.
    """

    def __str__(self) -> str:
        return printable_lines(super().__str__())


@dataclass(frozen=True)
class Problem:
    """One problem: what is wrong, where, and what to do.

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
        return printable_lines(f"{self.place}  {self.message}")


class GraphError(SfumatoError):
    """Something about a graph."""


def _table(problems: Sequence[Problem]) -> str:
    """One line for each problem, with its place in the first column."""
    width = max(len(p.place) for p in problems)
    return "\n".join(f"  {p.place:<{width}}  {p.message}" for p in problems)


class _ProblemsError(GraphError):
    """An error with all problems at once, printed as a table."""

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        many = len(self.problems) != 1
        text = f"({len(self.problems)} problems)\n{_table(self.problems)}" if many else str(self.problems[0])
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,), self.__dict__


class WireError(_ProblemsError):
    """A graph that cannot be made, changed or bound in this way."""


class InputError(_ProblemsError, TypeError):
    """A call with unknown, missing or wrong values."""


class GraphFileError(GraphError):
    """A graph file that cannot be read or written."""

    @classmethod
    def of(cls, file: str, problems: Sequence[Problem]) -> "GraphFileError":
        """One error with all problems of a file, each with its place in it."""
        if len(problems) == 1:
            return cls(f"{file}: {problems[0]}")
        return cls(f"{file}: {len(problems)} problems\n{_table(problems)}")


class Unbound(GraphError, AttributeError):
    """A block that runs without a component that it needs."""


class Malformed(GraphError, TypeError):
    """A class that is no valid block. The text says what to write."""


class BrokenBlock(GraphError, TypeError):
    """A block that does not return what its own signature says."""


class BlockFailed(GraphError, RuntimeError):
    """A block of this package whose computation torch refused. The text has the reason, `__cause__` torch's error."""


class NotFinite(GraphError, ArithmeticError):
    """NaN or infinity in a run within `debug()`. The text names the first layer."""


class ProcessFailed(GraphError):
    """A run of several processes that ended in this one since another failed. The text names it, with its error."""


class Cancelled(GraphError):
    """A run that was cancelled. The text is the path of the node that would have run next."""


class Paused(Cancelled):
    """A run that was paused. The text says where; `sf.resume(run.state)` goes on from there."""


class ConfigError(SfumatoError, ValueError):
    """A config with unknown, missing or wrong keys."""


class LoadError(SfumatoError):
    """A checkpoint, folder or index that cannot be loaded."""


class SaveError(SfumatoError):
    """A file or folder that cannot be saved. What was there is unchanged."""


class UnfitValue(SfumatoError, ValueError, TypeError):
    """A value with which a block or a model cannot compute: a size, a shape, a number, or one that is missing."""


class RemoteError(SfumatoError, OSError):
    """A component behind an address that cannot be reached, or that did not answer as it should."""


class PictureError(SfumatoError, OSError):
    """A picture that is missing or broken, above a limit, or of a format that is not read."""
