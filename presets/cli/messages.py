"""The output of a command: its result on stdout; errors, warnings and notes, one line each, on stderr.

Everything goes through `print_text`, `print_json` and `print_note`, which print no control characters.

Under `--json` an error is also printed as JSON on stdout. Exit codes: 0 success, 1 failure, 2 wrong command line,
130 Ctrl-C. A traceback is shown for errors of this program, and with `--debug` or SFUMATO_DEBUG=1.
"""

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ...registry import printable, printable_lines
from ...registry.log import LOG
from .trust import with_flag


class CommandError(Exception):
    """A command line that asks for something impossible. The text has the fault and advice."""

    def __str__(self) -> str:
        return printable_lines(super().__str__())


def is_first_process() -> bool:
    """Whether this is the first of several processes, which torchrun and accelerate number. It prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def print_text(*lines: str) -> None:
    """Print lines on stdout."""
    typer.echo("\n".join(map(printable, lines)))


def print_json(data: Any) -> None:  # JSON values
    """Print a value as JSON on stdout. Characters that are not printable are escaped."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    typer.echo("".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text))


def print_note(kind: str, text: str) -> None:
    """Print a line such as `warning: …` on stderr. Further lines are indented."""
    label = typer.style(f"{kind}:", fg=_COLORS.get(kind))
    typer.echo(f"{label} {printable_lines(text)}", err=True)  # one write, above a progress bar


def print_traceback() -> None:
    """Print the traceback of the error that is being handled on stderr."""
    parts = traceback.format_exception(sys.exception())
    typer.echo("\n".join(printable_lines(part.strip("\n")) for part in parts), err=True)


_COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


@contextmanager
def reported_errors(*, as_json: bool = False, debug: bool = False) -> Generator[None]:
    """Print warnings and the errors that a user can mend as one line each, and exit with the right code."""
    debug = debug or os.environ.get("SFUMATO_DEBUG", "0") not in ("", "0")
    with warnings.catch_warnings(), _printed_log():
        warnings.showwarning = _print_warning
        try:
            yield
        except KeyboardInterrupt:
            if debug:
                raise
            fail("Cancelled", "stopped by Ctrl-C. No further file was written.", as_json=as_json, code=130)
        except Exception as error:  # sorted out by _is_for_users; the others are raised again
            if isinstance(error, BrokenPipeError) or not _is_for_users(error):
                if as_json and not _is_exit(error):
                    print_json(_error_data(type(error).__name__, str(error)))
                raise
            if debug:
                print_traceback()
            fail(type(error).__name__, _error_text(error), as_json=as_json, problems=getattr(error, "problems", ()))


def fail(kind: str, text: str, *, as_json: bool, code: int = 1, problems: Sequence[Any] = ()) -> None:
    """Print an error and exit."""
    if as_json:
        print_json(_error_data(kind, text, problems))
    print_note("error", text)
    raise typer.Exit(code)


def problem_data(problem: Any) -> dict[str, Any]:  # a Problem; JSON values
    """A problem as JSON, without its empty fields."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in vars(problem).items() if v not in ("", ())}


class _PrintableRecord(logging.LogRecord):
    """A record of any logger, such as one of transformers, that shows names from files."""

    def getMessage(self) -> str:  # noqa: N802  its name in `logging`
        return printable_lines(super().getMessage())


class _PrintingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_note("note" if record.levelno < logging.WARNING else "warning", record.getMessage())


@contextmanager
def _printed_log() -> Generator[None]:
    """Print the log of the library, such as the preset that it chose, as notes. Other loggers keep their handlers."""
    handler = _PrintingHandler()
    level, factory = LOG.level, logging.getLogRecordFactory()
    logging.setLogRecordFactory(_PrintableRecord)
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        logging.setLogRecordFactory(factory)


def _error_data(kind: str, text: str, problems: Sequence[Any] = ()) -> dict[str, Any]:
    error: dict[str, Any] = {"type": kind, "message": text}
    if problems:
        error["problems"] = [problem_data(problem) for problem in problems]
    return {"error": error}


def _is_for_users(error: Exception) -> bool:
    """Whether the user can mend it: an error of the library, an unfit value, a file, or too little memory."""
    if isinstance(error, CommandError | ValueError | OSError):
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


def _error_text(error: Exception) -> str:
    text = with_flag(str(error).strip()) or type(error).__name__
    return f"out of memory: {text.splitlines()[0]}" if "Memory" in type(error).__name__ else text


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,  # the signature of `warnings.showwarning`
    line: str | None = None,
) -> None:
    print_note("warning", str(message))
