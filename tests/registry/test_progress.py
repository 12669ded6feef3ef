"""The progress bar: where it is shown, and as what."""

import io
import sys
from contextlib import redirect_stderr
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sfumato.registry.progress import ProgressBar, in_notebook


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("SFUMATO_PROGRESS", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


class Silent:
    """A bar that shows nothing."""

    def update(self, text: str, done: int, total: int, speed: str) -> None:
        pass

    def close(self) -> None:
        pass


def work(stderr: io.StringIO | None) -> None:
    with redirect_stderr(stderr), ProgressBar() as bar:
        bar.stage("denoise", 3, 4, "5.0/s")
        bar.stage("decode \x1b[31m")


def test_a_terminal_shows_the_work_and_the_count(terminal: Terminal) -> None:
    work(terminal)
    text = terminal.getvalue()
    assert r"decode \x1b[31m" in text and text.endswith("\x1b[2K")  # no line is left on it


@pytest.mark.parametrize("where", ["a pipe", "SFUMATO_PROGRESS=0", "no stderr"])
def test_elsewhere_nothing_is_shown_and_rich_is_not_imported(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refused() -> Any:
        raise AssertionError("the bar was made")

    monkeypatch.setattr("sfumato.registry.progress._rich_bar", refused)
    stderr = {"a pipe": io.StringIO(), "no stderr": None}.get(where, terminal)
    if where == "SFUMATO_PROGRESS=0":
        monkeypatch.setenv("SFUMATO_PROGRESS", "0")
    work(stderr)
    assert stderr is None or stderr.getvalue() == ""


def test_the_second_bar_of_a_process_shows_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Silent] = []

    def make() -> Silent:
        made.append(Silent())
        return made[-1]

    monkeypatch.setattr("sfumato.registry.progress._Terminal", make)
    with redirect_stderr(terminal), ProgressBar():
        work(terminal)
    work(terminal)
    assert len(made) == 2


# ------------------------------------------------------------------------------------------------ notebooks
class Shell:
    """The shell of a kernel, such as ipykernel's ZMQInteractiveShell."""


class TerminalInteractiveShell:
    """IPython's shell in a terminal."""


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook shows, as HTML. IPython is no dependency, so this is a fake of the two functions that count."""
    shown: list[str] = []

    def update(html: Any) -> None:
        shown.append(html._repr_html_())

    def display(html: Any, display_id: bool) -> Any:
        update(html)
        return SimpleNamespace(update=update)

    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    monkeypatch.setattr(ipython, "get_ipython", Shell, raising=False)
    monkeypatch.setattr(module, "display", display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.delenv("SFUMATO_PROGRESS", raising=False)
    return shown


def test_a_notebook_shows_a_bar_as_html(displayed: list[str]) -> None:
    with ProgressBar() as bar:
        bar.stage("<b>denoise</b>", 4, 4, "5.0/s")
        bar.stage("too soon after it", 1, 4)
    assert displayed == [
        "starting",
        '&lt;b&gt;denoise&lt;/b&gt; <progress max="4" value="4"></progress> 4/4 5.0/s',
        "",
    ]


def test_ipython_in_a_terminal_is_no_notebook(displayed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", TerminalInteractiveShell)
    assert not in_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)  # imported by a plain program
    assert not in_notebook()
