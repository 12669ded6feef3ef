"""The option `--trust-remote-code`, which may stand alone or take a value."""

import re
from collections.abc import Sequence

FLAG = "--trust-remote-code"
ANY_CODE = "any"
"""The value of the option where it stands alone: run any code."""
_VALUE = re.compile(r"isolated|(isolated )?sha256:\S*")


def with_value(args: Sequence[str]) -> list[str]:
    """A command line where the option always has a value, so that it never takes the prompt for one.

    >>> with_value(["run", "--trust-remote-code", "a fox"])
    ['run', '--trust-remote-code=any', 'a fox']
    """
    done: list[str] = []
    rest = [*args]
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            return [*done, arg, *rest]
        if arg == FLAG:
            value = rest.pop(0) if rest and _VALUE.fullmatch(rest[0]) else ANY_CODE
            arg = f"{FLAG}={value}"
        done.append(arg)
    return done


def with_flag(text: str) -> str:
    """A text of the library about `trust_remote_code` or allowed folders, with the option in its place."""
    text = re.sub(r"write sf\.load\(…, access=sf\.Access\(folders=\['([^']*)'\]\)\)", r"pass --folder \1", text)
    text = re.sub(r'trust_remote_code="([^"]*)"', rf"{FLAG} \1", text)
    return re.sub(r"\btrust_remote_code(=True)?\b", FLAG, text)
