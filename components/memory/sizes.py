"""Sizes as text: read from a user, and shown to one."""

import re

from ...graph.errors import ConfigError

_UNITS = {
    "B": 1,
    **{f"{u}B": 1000**i for i, u in enumerate("KMGT", 1)},
    **{f"{u}iB": 1024**i for i, u in enumerate("KMGT", 1)},
}


def parse_size(size: int | str, what: str) -> int:
    """Bytes from a number or a text such as "8GB" or "512 MiB".

    what: names the value in the error text.

    Raises:
        ConfigError: the size is neither.

    >>> parse_size("8GB", "budget"), parse_size("1.5 MiB", "budget"), parse_size(100, "budget")
    (8000000000, 1572864, 100)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", size) if isinstance(size, str) else None
    unit = next((n for name, n in _UNITS.items() if match and match[2].lower() == name.lower()), None)
    if match and unit:
        return int(float(match[1]) * unit)
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    raise ConfigError(f"{what}: needs bytes as a number, or a text such as '8GB' or '512MiB'. Got {size!r}.")


def show_size(count: int) -> str:
    """Bytes as text, in the largest unit of 1000 that fits.

    >>> show_size(12), show_size(5_140_000_000)
    ('12 B', '5.1 GB')
    """
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
