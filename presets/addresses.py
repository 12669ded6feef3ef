"""Addresses of the Hub, as a browser shows and copies them."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from ..components.storage.hub import is_repo, is_revision
from ..graph import LoadError

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_OTHERS = {"datasets": "a data set", "spaces": "a space", "docs": "a page", "papers": "a page", "collections": "a page"}
"""The kind of an address by its first part, where this is no owner of models."""


class Address(NamedTuple):
    """A repo of the Hub, or a file or folder in it."""

    name: str
    """`owner/name`."""
    revision: str | None = None
    path: str = ""
    """Of the file or folder in the repo; "" for the whole repo."""


def parse_address(x: object) -> Address | None:
    """The repo, revision and path of an address of the Hub; None for anything that is no address.

    >>> parse_address("https://huggingface.co/owner/name/blob/refs%2Fpr%2F3/unet/model.safetensors?download=true")
    Address(name='owner/name', revision='refs/pr/3', path='unet/model.safetensors')
    >>> parse_address("owner/name"), parse_address("hf.co/owner/name")
    (None, Address(name='owner/name', revision=None, path=''))

    Raises:
        LoadError: an address of another server, or one that names no repo.
    """
    if not isinstance(x, str) or (rest := _after_host(x.strip())) is None:
        return None
    parts = [unquote(part) for part in rest.partition("#")[0].partition("?")[0].strip("/").split("/")]
    if parts[0] in _OTHERS:
        raise LoadError(f"{x}: is {_OTHERS[parts[0]]} of the Hub, and not a repo of a model. Pass owner/name.")
    match parts:
        case [owner, name] | [owner, name, "tree"]:
            found = Address(f"{owner}/{name}")
        case [owner, name, "tree" | "blob" | "resolve" | "raw", "refs", kind, number, *path]:
            found = Address(f"{owner}/{name}", f"refs/{kind}/{number}", "/".join(path))
        case [owner, name, "tree" | "blob" | "resolve" | "raw", revision, *path]:
            found = Address(f"{owner}/{name}", revision, "/".join(path))
        case _:
            found = Address("")
    inside = not found.path or {".", "..", ""}.isdisjoint(found.path.split("/"))
    if is_repo(found.name) and inside and (found.revision is None or is_revision(found.revision)):
        return found
    raise LoadError(
        f"{x}: is not a repo, a folder or a file of the Hub. Pass owner/name or owner/name/file, with revision= and "
        "subfolder=."
    )


def _after_host(x: str) -> str | None:
    """The part of an address after its server; None for a text that names no server."""
    scheme, colon, rest = x.partition("://")
    if not colon:
        host, slash, after = x.partition("/")
        return after if slash and host in _HOSTS and not Path(host).exists() else None
    from huggingface_hub import constants

    if x.startswith(f"{constants.ENDPOINT}/"):
        return x.removeprefix(f"{constants.ENDPOINT}/")
    host, _, after = rest.partition("/")
    if scheme in ("https", "http") and host in _HOSTS:
        return after
    raise LoadError(
        f"{x}: is not a repo or a file of the Hub at {constants.ENDPOINT}. Pass owner/name or owner/name/file with "
        "revision= and subfolder=, or download it."
    )
