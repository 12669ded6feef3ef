"""Faults of weight files that cannot be read, by their first bytes."""

import re
from pathlib import Path

from ...graph.errors import LoadError
from ...graph.json_text import decoded, parse
from ...graph.limits import limit

_SOME = 4096
_ZIP_HEADER = 30
_PICKLED = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5)))
"""The first bytes of torch's files: new ones are zip archives, older ones are pickles."""
_SAFE = "Use a .safetensors file, or download it again."
_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/.*?\nsize (\d+)", re.DOTALL)


def fault_of(file: Path, kind: str, error: object = "") -> str:
    """A sentence about a file that was to be read as `kind` ("a safetensors file"), and what to do.

    error: the reader's, which is shown where the first bytes say nothing.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(_SOME)
    except OSError as unreadable:
        return f"{file} cannot be read: {unreadable.strerror or unreadable}. Check the path and its permissions."
    if size == 0:
        return f"{file} is empty (0 bytes). Download it again."
    if found := _LFS.match(start):
        return (
            f"{file} is a pointer of Git LFS, and not the file of {int(found[1])} bytes itself. Run `git lfs pull` in "
            "its folder, or download the file."
        )
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            f"{file} is a web page, as a server sends it when it asks to sign in or has no such file. Download the "
            "file itself; a gated one needs a token."
        )
    if (name := _other_kind(start, size)) and name != kind:
        rename, way = _NAMES[name]
        return f"{file} is {name} under another name, not {kind}. Rename it to end with {rename}{way}."
    if kind == PICKLE:
        return f"{file} cannot be read as plain tensors: it is damaged, or it has code, which is not run. {_SAFE}"
    if cut := _cut(file, start, size):
        return f"{file} is damaged or not {kind}: {cut}. Download it again."
    return f"{file} is damaged or not {kind}{f': {error}' if error else ''}. Download it again."


def refuse_renamed(file: Path, kind: str) -> None:
    """Raise LoadError for a file whose first bytes are those of another kind than `kind`.

    A pickle is recognised by its reader alone: it may begin with almost any byte.
    """
    text = fault_of(file, kind)
    if _SAFE not in text and file.exists():
        raise LoadError(text)


SAFETENSORS, GGUF, PICKLE = "a safetensors file", "a GGUF file", "a pickle of torch"
_NAMES = {
    SAFETENSORS: (".safetensors", ""),
    GGUF: (".gguf", ""),
    PICKLE: (".ckpt", ", and pass allow_pickle=True; or use a .safetensors file"),
}


def _other_kind(start: bytes, size: int) -> str:
    """The kind of file that begins with these bytes; "" for an unknown kind."""
    if start.startswith(b"GGUF"):
        return GGUF
    if size > _ZIP_HEADER and start.startswith(_PICKLED) and start[8:9] != b"{":
        return PICKLE
    return SAFETENSORS if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= size - 8 else ""


def _cut(file: Path, start: bytes, size: int) -> str:
    """A text about the end that a safetensors file lacks by its own header; "" if it is whole or has no such header."""
    length = int.from_bytes(start[:8], "little")
    if size < 8 or start[8:9] != b"{":
        return ""
    if length > size - 8:
        return f"its header has {length} bytes, and only {size - 8} are there" if length < 100_000_000 else ""
    try:
        with file.open("rb") as stream:
            stream.seek(8)
            header = parse(decoded(stream.read(min(length, limit("header_bytes")))))
        end = max(int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return ""
    return f"its tensors have {end} bytes, and only {size - 8 - length} are there" if end > size - 8 - length else ""
