"""The `sfumato` command in this process."""

import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout

from .table import Action


def command(*words: str) -> Action:
    """Run a command line. What it printed if it succeeds; `Refused` with its error text."""

    def action() -> str:
        from sfumato.presets.cli.app import app

        from .child import Faulty, Refused

        out, err = _stream(), _stream()
        code: object = 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                app(list(words))
            except SystemExit as stop:
                code = stop.code
        printed, errors = _text(out), _text(err)
        os.write(1, f"{printed}\n{errors}".encode())
        if code == 0:
            return printed
        said = re.search(r"^ ?(error:|usage:|\d+ problems?)", f"{errors}\n{printed}", re.MULTILINE | re.IGNORECASE)
        if code not in (1, 2) or said is None:
            raise Faulty(f"exit code {code}, {errors[-300:]!r}")
        raise Refused(errors)

    return action


def _stream() -> io.TextIOWrapper:
    """A stream that encodes as that of a terminal does: it refuses lone surrogates."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    data: io.BytesIO = stream.buffer  # pyright: ignore[reportAssignmentType]  as `_stream` makes it
    return data.getvalue().decode()
