"""What a command says when something goes wrong: one line on stderr, JSON on stdout under `--json`, an exit code.

0 is fine, 1 is that the thing failed, 2 is a wrong command line, 130 is Ctrl-C. A traceback is for our own mistakes,
and for those who ask: `--debug`, or SFUMATO_DEBUG=1.
"""

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, also for errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Also: SFUMATO_DEBUG=1.")]


TRUST = "--trust-remote-code"
TRUSTED = "as it is"
"""What the flag says when no word stands behind it."""
Trust = Annotated[
    str | None,
    typer.Option(
        TRUST,
        metavar="[isolated|sha256:…]",
        help="Run code that the model brings; it is shown first. With isolated: in a process of its own. With a hash: "
        "exactly that code.",
        show_default=False,
    ),
]


class Refused(Exception):
    """Something that the command line itself refuses; the text says what came, what was wanted, and the way out."""


def say(data: Any) -> None:  # JSON values
    """Print a value as JSON."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def note(kind: str, text: str) -> None:
    """A line on stderr, such as `warning: …`."""
    typer.echo(f"{typer.style(f'{kind}:', fg=_COLORS.get(kind))} {text}", err=True)  # in one piece, above a bar


_COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


@contextmanager
def telling(*, as_json: bool = False, debug: bool = False) -> Generator[None]:
    """Tell the errors that users make, and warnings, in a line each; exit with the right code."""
    debug = debug or os.environ.get("SFUMATO_DEBUG", "0") not in ("", "0")
    with warnings.catch_warnings(), _noting():
        warnings.showwarning = _show
        try:
            yield
        except KeyboardInterrupt:
            if debug:
                raise
            fail("Cancelled", "stopped by Ctrl-C; nothing more was written.", as_json=as_json, code=130)
        except Exception as error:  # _is_told decides which are a user's mistakes; the rest go on
            if isinstance(error, BrokenPipeError) or not _is_told(error):
                if as_json and not _is_exit(error):
                    say(_error(type(error).__name__, str(error)))
                raise
            if debug:
                import traceback

                traceback.print_exc()
            fail(type(error).__name__, _text(error), as_json=as_json, problems=getattr(error, "problems", ()))


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note("note" if record.levelno < logging.WARNING else "warning", record.getMessage())


@contextmanager
def _noting() -> Generator[None]:
    """Show what the library logs, such as the preset that it picked, as notes on stderr."""
    logger, handler = logging.getLogger("sfumato"), _Notes()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def fail(kind: str, text: str, *, as_json: bool, code: int = 1, problems: Sequence[Any] = ()) -> None:
    """Say an error and exit."""
    if as_json:
        say(_error(kind, text, problems))
    note("error", text)
    raise typer.Exit(code)


def _error(kind: str, text: str, problems: Sequence[Any] = ()) -> dict[str, Any]:
    error: dict[str, Any] = {"type": kind, "message": text}
    if problems:
        error["problems"] = [as_data(problem) for problem in problems]
    return {"error": error}


def as_data(problem: Any) -> dict[str, Any]:  # a Problem
    """A problem as JSON; its fields that say nothing are left out."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in vars(problem).items() if v not in ("", ())}


def _is_told(error: Exception) -> bool:
    """Whether an error is about what the user gave: ours, an unfit value, a file, or memory."""
    if isinstance(error, Refused | ValueError | OSError):
        return True
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return True
    if "sfumato.graph.errors" not in sys.modules and "sfumato.registry" not in sys.modules:
        return False
    from ...graph.errors import SfumatoError
    from ...registry import UnknownName

    return isinstance(error, SfumatoError | UnknownName)


def _is_exit(error: Exception) -> bool:
    return isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "format_message")


def _text(error: Exception) -> str:
    text = as_flag(str(error).strip()) or type(error).__name__
    return f"out of memory: {text.splitlines()[0]}" if "Memory" in type(error).__name__ else text


def as_flag(text: str) -> str:
    """A text of the library about trusting code, as it is said on a command line."""
    text = re.sub(r'trust_remote_code="([^"]*)"', rf"{TRUST} \1", text)
    return re.sub(r"\btrust_remote_code(=True)?\b", TRUST, text)


def with_word(args: Sequence[str]) -> list[str]:
    """A command line with a word behind each flag of trust: `run --trust-remote-code "a fox"` gives it no prompt."""
    given: list[str] = []
    rest = [*args]
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            return [*given, arg, *rest]
        if arg == TRUST:
            word = [] if not rest or not re.fullmatch(r"isolated|(isolated )?sha256:\S*", rest[0]) else [rest.pop(0)]
            arg = f"{arg}={word[0] if word else TRUSTED}"
        given.append(arg)
    return given


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,  # the signature of `warnings.showwarning`
    line: str | None = None,
) -> None:
    note("warning", str(message))
