"""One picture of all cells of a sweep, with labels."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

_GAP = 6
_PAPER, _INK, _NONE, _FAILED = "white", "#222222", "#eeeeee", "#aa2222"

Drawn = tuple[Mapping[str, str], Any, BaseException | None]
"""The labels of a cell, its picture or None, and its error."""


def draw_grid(axes: Mapping[str, Sequence[str]], cells: Sequence[Drawn], columns: str | None) -> "Image":
    """Draw the cells: the axis `columns` from left to right, the others from top to bottom."""
    from PIL import Image, ImageDraw

    down = [name for name in axes if name != columns]
    tops = list(axes[columns]) if columns else [""]
    headers = [_header(columns, label) for label in tops] if columns else [""]
    sides = list(product(*(axes[name] for name in down)))
    pictures = [picture for _, picture, _ in cells if picture is not None]
    wide = max((picture.width for picture in pictures), default=64)
    high = max((picture.height for picture in pictures), default=64)
    font = _font(max(11, min(wide, high) // 14))
    top_texts = [_wrapped(header, wide, font) for header in headers]
    side_width = max(160, wide) if down else 0
    side_texts = [_wrapped("\n".join(map(_header, down, side)), side_width - _GAP, font) for side in sides]
    header = max(_size(text, font)[1] for text in top_texts) + 2 * _GAP if columns else _GAP
    row_height = max([high, *(_size(text, font)[1] for text in side_texts)])
    size = side_width + _GAP + len(tops) * (wide + _GAP), header + len(sides) * (row_height + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(top_texts):
        draw.multiline_text((side_width + _GAP + number * (wide + _GAP), _GAP), text, _INK, font)
    for number, text in enumerate(side_texts):
        draw.multiline_text((_GAP, header + number * (row_height + _GAP)), text, _INK, font)
    for labels, picture, error in cells:
        x = side_width + _GAP + tops.index(labels[columns] if columns else "") * (wide + _GAP)
        y = header + sides.index(tuple(labels[name] for name in down)) * (row_height + _GAP)
        if picture is not None:
            sheet.paste(picture.convert("RGB"), (x, y))
            continue
        draw.rectangle((x, y, x + wide - 1, y + high - 1), _NONE)
        text = type(error).__name__ if error is not None else "no picture"
        draw.multiline_text((x + 2, y + 2), _wrapped(text, wide - 4, font), _FAILED, font)
    return sheet


def _header(name: str, label: str) -> str:
    """The label, with the name of its axis where it is a number or nothing."""
    return f"{name} {label}" if label in ("", "none") or label.lstrip("-").replace(".", "", 1).isdigit() else label


def _font(size: int) -> "FreeTypeFont | BitmapFont":
    """The font that Pillow ships."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _size(text: str, font: "FreeTypeFont | BitmapFont") -> tuple[int, int]:
    from PIL import Image, ImageDraw

    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font)
    return int(box[2]) + 1, int(box[3]) + 1


def _wrapped(text: str, width: int, font: "FreeTypeFont | BitmapFont") -> str:
    """The text with breaks between words, and inside of words that are too long."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            tried = f"{line} {word}" if line else word
            if line and _size(tried, font)[0] > width:
                lines.append(line)
                tried = word
            while _size(tried, font)[0] > width and len(tried) > 1:
                fits = next(n for n in range(len(tried) - 1, 0, -1) if n == 1 or _size(tried[:n], font)[0] <= width)
                lines.append(tried[:fits])
                tried = tried[fits:]
            line = tried
        lines.append(line)
    return "\n".join(lines)
