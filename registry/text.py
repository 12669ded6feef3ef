"""Texts for people: names and messages from files, shown so that a terminal does not obey them."""

_BREAK = "\n  "


def printable(text: str) -> str:
    r"""The text on one line, with a Python escape for each character that is not printable (`str.isprintable`).

    These are control characters, line separators, marks that change the order of reading, characters without width,
    and lone surrogates.

    >>> printable("fox\x1b[31m\nerror: none"), printable("fox and 狐")
    ('fox\\x1b[31m\\nerror: none', 'fox and 狐')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    r"""The same for a text of several lines. A line break is kept where the next line is indented by two spaces.

    So the layout of a table is kept, and a name cannot begin a line that looks like an error or a note of its own.

    >>> printable_lines("2 problems\n  here\n  there\nerror: none")
    '2 problems\n  here\n  there\\nerror: none'
    """
    return _BREAK.join(map(printable, text.split(_BREAK)))
