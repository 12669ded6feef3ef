"""The option `--memo`."""

from typing import Any


def memo_of(folder: str | None) -> dict[str, Any]:
    """The keyword of a call for a memo in this folder; none without a folder."""
    if folder is None:
        return {}
    from ...graph.memo import memo

    return {"memo": memo(folder)}
