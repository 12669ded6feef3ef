"""What a user names: a preset, a folder, a repo, or a single file, here or on the Hub."""

from pathlib import Path

from ..components.loading.single_file.checkpoint import ENDS
from ..components.storage.hub import Access, is_repo, open_repo
from ..components.storage.location import Folder, Location, location_of
from ..graph import LoadError
from ..registry import did_you_mean
from .names import EMBEDDED, is_embedded, names


def file_of(x: str | Path, revision: str | None, access: Access) -> Path | None:
    """The single file of weights that a user names, here or as `owner/name/file` on the Hub; None for all else."""
    path = Path(x).expanduser()
    if not path.name.endswith(ENDS):
        return None
    if path.is_file():
        return path.absolute()
    name, revision = _of_address(str(x), revision)
    parts = name.split("/")
    if len(parts) > 2 and is_repo("/".join(parts[:2])) and not path.parent.is_dir():
        repo = open_repo("/".join(parts[:2]), revision, access, fresh=True)
        inside, name = "/".join(parts[2:-1]), parts[-1]
        if name not in (there := repo.names(inside)):
            raise LoadError(f"{repo.source}: has no file {'/'.join(parts[2:])!r}. {did_you_mean(name, sorted(there))}")
        return repo.local(inside, [name]) / name
    raise LoadError(f"{path}: there is no such file. The working folder is {Path.cwd()}.")


def _of_address(x: str, revision: str | None) -> tuple[str, str | None]:
    """`owner/name`, or `owner/name/file`, and the revision, of an address on the Hub as a browser shows it; else what
    came."""
    if "://" not in x:
        return x, revision
    from huggingface_hub import constants

    home, _, rest = x.partition(f"{constants.ENDPOINT}/")
    match [] if home else rest.rstrip("/").split("/"):
        case [owner, name]:
            return f"{owner}/{name}", revision
        case [owner, name, "tree", at]:
            return f"{owner}/{name}", revision or at
        case [owner, name, "blob" | "resolve", at, *file] if file:
            return "/".join([owner, name, *file]), revision or at
        case _:
            pass
    raise LoadError(
        f"{x}: is no repo and no file of the Hub at {constants.ENDPOINT}. Give owner/name or owner/name/file with "
        "revision= and subfolder=, or download it."
    )


def find_root(x: str | Path, revision: str | None, access: Access) -> Location:
    """The folder, embedded model or repo that a user names; a repo is asked for its newest commit."""
    if is_embedded(x):
        return Folder(EMBEDDED / x)
    if isinstance(x, str) and "://" in x:
        x, revision = _of_address(x, revision)
    folder = Path(x).expanduser()
    if not folder.exists() and isinstance(x, str) and is_repo(x) and not folder.parent.is_dir():
        return open_repo(x, revision, access, fresh=True)
    if folder.exists() or folder.is_absolute() or str(x).startswith((".", "~")):
        return location_of(str(folder.absolute()))
    raise LoadError(f"{str(x)!r} is neither a folder nor a preset. {did_you_mean(str(x), names())}")
