"""Colours, text and shapes of svg drawings.

They use attributes and no styles: a drawing does not change the page that it is in, and plain renderers draw it too.
"""

from html import escape
from zlib import crc32

from ...registry import printable

PAPER, CARD, INK, DIM, LINE, FAINT = "#faf8f4", "#ffffff", "#23262d", "#6d6a63", "#a49e92", "#d8d2c6"
TINTS = ("#f0ebdf", "#e6eaf0", "#ece6f0", "#e5eee7")  # containers, by depth
ACCENT, CARRIED = "#b4542d", ("#dfe9f2", "#4a7ba6")
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
"""Plain renderers take the first and have something like it; generic names such as `system-ui` they do not know."""

_BOLD = ' font-weight="700"'
_HUES = ("#2f6f9f", "#8a5a9e", "#2d7d5f", "#a8641f", "#9c3f56", "#4a6a2a", "#5b5fa8", "#7a6a1f")

_NARROW, _WIDE = frozenset("iljtfrI.,:;|'()[] ·-"), frozenset("mwMWQ@%…—")


def type_colour(kind: str) -> str:
    """The colour of a type, the same in every drawing."""
    return _HUES[crc32(printable(kind).encode()) % len(_HUES)]


def xml_text(text: str) -> str:
    """Text for an svg. XML allows no control characters and no lone surrogates (XML 1.0, section 2.2)."""
    return escape("\n".join(map(printable, text.split("\n"))))


def measure(text: str, size: float, *, bold: bool = False) -> float:
    """The width of a text in pixels, estimated from its letters for the widest of the fonts above."""
    units = sum(map(_units, printable(text)))
    return units * size * (1.08 if bold else 1.0)


def _units(c: str) -> float:
    if c in _NARROW:
        return 0.40
    return 0.98 if c in _WIDE or ord(c) > 0x2E80 else 0.72 if c.isupper() else 0.61


def clipped(text: str, letters: int) -> str:
    """The text, cut to at most this many letters."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def text_line(
    text: str, x: float, y: float, size: float, *, fill: str = INK, bold: bool = False, anchor: str = "start"
) -> str:
    """A line of text on the baseline `y`."""
    side = f' text-anchor="{anchor}"' if anchor != "start" else ""
    look = f'font-size="{size:g}" fill="{fill}"{_BOLD if bold else ""}{side}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{xml_text(text)}</text>'


Span = tuple[str, str, float, bool]
"""A piece of text, its colour, its size, and whether it is bold."""


def spans(parts: list[Span], x: float, y: float, anchor: str = "start") -> str:
    """One or two pieces of text on the baseline `y`, from `x` on or with their middle there.

    Each is a text of its own. In the middle, the first ends where the second begins, so they neither overlap nor part
    in a font of other widths. Plain renderers know no text that goes on in another style.
    """
    first, *more = [part for part in parts if part[0]]
    text, fill, size, bold = first
    if not more:
        return text_line(text, x, y, size, fill=fill, bold=bold, anchor=anchor)
    ((rest, rest_fill, rest_size, rest_bold),) = more
    meet = x + measure(text, size, bold=bold)
    if anchor == "middle":
        meet -= (measure(text, size, bold=bold) + measure(rest, rest_size, bold=rest_bold)) / 2
        drawn = text_line(text, meet, y, size, fill=fill, bold=bold, anchor="end")
    else:
        drawn = text_line(text, x, y, size, fill=fill, bold=bold)
    gap = measure(" ", rest_size) if rest.startswith(" ") else 0.0  # spaces at the begin of a text are not drawn
    return drawn + text_line(rest.lstrip(), meet + gap, y, rest_size, fill=rest_fill, bold=rest_bold)


def box(
    x: float, y: float, w: float, h: float, radius: float, *, fill: str, stroke: str = "none", opacity: float = 1.0
) -> str:
    """A rounded rectangle."""
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{radius:g}"'
    return f'<rect {shape} fill="{fill}" stroke="{stroke}" fill-opacity="{opacity:g}"/>'


def with_tooltip(body: str, text: str) -> str:
    """The body with a tooltip, which screen readers speak."""
    return f"<g><title>{xml_text(text)}</title>{body}</g>"


def curve(points: list[tuple[float, float]] | tuple[tuple[float, float], ...]) -> str:
    """A path through the points that is vertical at each of them."""
    (x, y), *rest = points
    path = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in rest:
        bend = (to_y - y) / 2
        if abs(to_x - x) < 0.5:
            path.append(f"L{to_x:.1f} {to_y:.1f}")
        else:
            path.append(f"C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(path)
