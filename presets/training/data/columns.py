"""Columns of tables by their customary names, and captions in them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from ....graph.errors import LoadError
from ....registry import printable

IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "target", "edited_image")
CAPTIONS = ("text", "caption", "prompt", "txt", "captions", "tags", "description", "label_text")
MASKS = ("mask", "mask_file_name", "mask_image")
CONTROLS = ("control_image", "conditioning_image", "control", "control_image_file_name", "conditioning_image_file_name")


def find_key(columns: Collection[str], known: Sequence[str], wanted: str | None, where: str, what: str) -> str | None:
    """The column with something: the wanted one, or the first of the known ones that is there; None without any.

    Raises:
        LoadError: the wanted column is not there.
    """
    if wanted is not None and wanted not in columns:
        raise LoadError(f"{where}: needs a column {wanted!r} with {what}, and has {_named(columns)}.")
    return wanted or next((name for name in known if name in columns), None)


def key_of(columns: Collection[str], known: Sequence[str], wanted: str | None, where: str, what: str) -> str:
    """The same for a column that must be there. LoadError without any."""
    found = find_key(columns, known, wanted, where, what)
    if found is None:
        raise LoadError(
            f"{where}: needs a column with {what}, such as {known[0]!r}, and has {_named(columns)}. "
            "Set its name in the Source."
        )
    return found


def _named(columns: Collection[str]) -> str:
    return ", ".join(printable(repr(name)) for name in list(columns)[:20]) or "no columns"


def captions_in(value: Any, where: str) -> tuple[str, ...]:  # Any: a cell of a table
    """The captions in a cell: a text, bytes of one, or a list of texts, which are alternatives.

    Raises:
        LoadError: a cell of another type.
    """
    if value is None:
        return ()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in cast("Sequence[Any]", value)):
        return tuple(cast("Sequence[str]", value))
    if isinstance(value, Mapping):
        inner = next((name for name in CAPTIONS if name in value), None)
        return captions_in(cast("Mapping[str, Any]", value)[inner], where) if inner else ()
    raise LoadError(f"{where}: needs a text or a list of texts as the caption, got {type(value).__name__}.")
