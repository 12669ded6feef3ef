"""Values as HTML, for notebooks."""

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

from ..registry import printable
from .validate import value_text

_MOST_PICTURES = 64
_LARGEST_SIDE = 512
"""Pictures are shrunk to this many pixels a side: a notebook keeps what it shows in its file."""


def mapping_html(values: Mapping[str, Any]) -> str:
    """A mapping with a grid for each list of PIL images, and a line for each other value."""
    return "".join(f"<div><code>{escape(name)}</code>{_value_html(value)}</div>" for name, value in values.items())


def _value_html(value: Any) -> str:
    items = value if isinstance(value, list | tuple) else [value]
    if not items or not all(hasattr(item, "_repr_png_") and hasattr(item, "thumbnail") for item in items):
        return f" {escape(printable(value_text(value)))}"
    figures = "".join(_figure_html(item) for item in items[:_MOST_PICTURES])
    more = f"<p>and {len(items) - _MOST_PICTURES} more</p>" if len(items) > _MOST_PICTURES else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>{more}'


def _figure_html(picture: Any) -> str:
    seed = getattr(picture, "seed", None)
    caption = f'<figcaption style="text-align:center">seed {escape(str(seed))}</figcaption>' if seed is not None else ""
    small = picture.crop((0, 0, *picture.size))  # a plain image: its file has no record of the run
    small.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    size = f"{picture.width} x {picture.height}"
    return f'<figure style="margin:0"><img src="data:image/png;base64,{data}" title="{size}">{caption}</figure>'
