"""A progress bar on stderr: in a terminal or a notebook, and nowhere else."""

import os
import sys
import threading
import time
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from .text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

_SHOWN = threading.Lock()
"""Held by the bar that is shown: two bars on one terminal would overwrite each other."""

_SECONDS_BETWEEN = 0.1
"""Between two changes of a bar in a notebook."""


class ProgressBar:
    """The present work, and how much of it is done. Only one is shown at a time; others show nothing.

    It is shown where stderr is a terminal, and in a notebook. `SFUMATO_PROGRESS=0` in the environment hides it.
    """

    def __init__(self) -> None:
        self._shown: _Shown | None = None

    def __enter__(self) -> Self:
        if (kind := _kind()) is not None and _SHOWN.acquire(blocking=False):
            try:
                self._shown = kind()
            except BaseException:
                _SHOWN.release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shown, self._shown = self._shown, None
        if shown is not None:
            try:
                shown.close()
            finally:
                _SHOWN.release()

    def stage(self, text: str, done: int = 0, total: int = 0, speed: str = "") -> None:
        """Show the present work: a text, and how many of how many steps are done; 0 of 0 where that is unknown."""
        if self._shown is not None:
            self._shown.update(printable(text), done, total, speed)


class _Shown(Protocol):
    def update(self, text: str, done: int, total: int, speed: str) -> None: ...

    def close(self) -> None: ...


def _kind() -> type["_Terminal"] | type["_Notebook"] | None:
    """The kind of bar that fits this process, or None."""
    if os.environ.get("SFUMATO_PROGRESS") == "0" or os.environ.get("RANK", "0") != "0":  # of several processes
        return None
    if in_notebook():
        return _Notebook
    stderr = sys.stderr  # None in programs without a console
    return _Terminal if stderr is not None and stderr.isatty() else None  # pyright: ignore[reportUnnecessaryComparison]


def in_notebook() -> bool:
    """Whether the program runs in a notebook, which shows HTML. Nothing is imported to find out."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and type(shell).__name__ != "TerminalInteractiveShell"


class _Terminal:
    def __init__(self) -> None:
        self._bar = bar = _rich_bar()
        self._task = bar.add_task("starting", total=None, count="", speed="")
        bar.start()

    def update(self, text: str, done: int, total: int, speed: str) -> None:
        count = f"{done}/{total}" if total else ""
        self._bar.update(self._task, description=text, completed=done, total=total or None, count=count, speed=speed)

    def close(self) -> None:
        self._bar.stop()


def _rich_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    name, count, speed = (
        TextColumn(text, markup=False)
        for text in ("{task.description:<16}", "{task.fields[count]}", "{task.fields[speed]}")
    )
    columns = name, BarColumn(), count, TimeElapsedColumn(), speed
    # Drawing it takes about a millisecond of the CPU.
    return Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)


class _Notebook:
    def __init__(self) -> None:
        from IPython.display import display  # pyright: ignore[reportMissingImports]  a notebook has it

        self._handle: Any = display(_Html("starting"), display_id=True)
        self._next = 0.0

    def update(self, text: str, done: int, total: int, speed: str) -> None:
        now = time.monotonic()
        if now < self._next and done != total:
            return
        self._next = now + _SECONDS_BETWEEN
        bar = f'<progress max="{total}" value="{done}"></progress> {done}/{total} {escape(speed)}' if total else ""
        self._handle.update(_Html(f"{escape(text)} {bar}"))

    def close(self) -> None:
        self._handle.update(_Html(""))


class _Html:
    """HTML that a notebook shows."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        return self._text

    def __repr__(self) -> str:  # what a console without HTML shows in its place
        return ""
