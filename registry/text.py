"""Texts for people: names and messages from files, shown so that a terminal does not obey them."""

_BREAK = "\n  "
_LONGEST_LINE = 2_000
_LONGEST_TEXT = 20_000


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

    So the layout of a table is kept, and a name cannot begin a line that looks like an error or a note of its own. What
    is longer than people read is shortened in the middle.

    >>> printable_lines("2 problems\n  here\n  there\nerror: none")
    '2 problems\n  here\n  there\\nerror: none'
    """
    lines = (printable(shortened(line, _LONGEST_LINE)) for line in text.split(_BREAK))
    return shortened(_BREAK.join(lines), _LONGEST_TEXT)


def shortened(text: str, most: int) -> str:
    """The text, without its middle where it has more letters.

    >>> shortened("fox", 20), shortened("abcdefgh" * 100, 20)
    ('fox', 'abcdefghab … (780 letters) … ghabcdefgh')
    """
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … ({len(text) - 2 * half} letters) … {text[-half:]}"
