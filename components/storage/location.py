"""Where files are: a local folder, or a repo of the Hub. Both have the same methods."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...graph.errors import LoadError
from ...graph.files.inside import boundary_of, followed, leads_out, path_inside
from ...graph.limits import AboveLimit, check_limit
from .files import find_folder
from .hub import Access, Repo, is_repo, open_repo

_SMALL = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class Folder:
    """A local folder with a pipeline or a component. Its files are never fetched."""

    path: Path

    @property
    def source(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def revision(self) -> None:
        """None: a folder has no revisions."""
        return None

    def names(self, subfolder: str = "") -> frozenset[str]:
        """The names of the files in a subfolder, links included. LoadError if it leads out of the folder."""
        if leads_out(subfolder):
            raise LoadError(f"{self.path}: needs a subfolder inside it such as 'unet', got {subfolder!r}.")
        place = self.path / subfolder
        return frozenset(p.name for p in place.iterdir() if not p.is_dir()) if place.is_dir() else frozenset()

    def size(self, subfolder: str, name: str) -> int | None:
        """The bytes of a file."""
        return (self.path / subfolder / name).stat().st_size

    def local(self, subfolder: str, names: Iterable[str]) -> Path:
        """The path of a subfolder. LoadError if it or one of the files is a link that leads out of the folder."""
        place = self.path / subfolder
        boundary = boundary_of(self.path)
        files = [place / name for name in names]
        for path in (place, *files):
            try:
                target = followed(path)
            except OSError as error:  # a loop of links
                raise LoadError(f"{path}: cannot be followed ({error.strerror}).") from None
            if not target.is_relative_to(boundary):
                raise LoadError(
                    f"{path}: is a link that leads out of {self.path}. A checkpoint could read any file this way. "
                    "Put the file itself there, or pass the folder that the link leads to."
                )
        for path in files:
            if path.exists() and not path.is_file():  # reading a pipe or a device may never end
                raise LoadError(f"{path}: is not a plain file. Put the file itself there.")
        return place


Location = Folder | Repo


def location_of(source: str, revision: str | None = None, access: Access | None = None) -> Location:
    """An existing folder, else a repo `owner/name`. LoadError if it is neither."""
    folder = Path(source).expanduser()
    if not folder.exists() and is_repo(source) and not source.startswith((".", "~")) and not folder.parent.is_dir():
        return open_repo(source, revision, access)
    return Folder(find_folder(source))


def open_source(source: str, revision: str | None = None, access: Access | None = None) -> Location:
    """The repo `owner/name`, or the folder of an absolute path; the working folder does not matter. LoadError if there
    is none."""
    if is_repo(source):
        return open_repo(source, revision, access)
    if not Path(source).is_absolute():
        raise LoadError(f"{source}: there is no such folder. Pass an absolute path, or owner/name for a repo.")
    return Folder(find_folder(source))


def source_in_file(name: str, folder: Path, allowed: Iterable[str | Path] = ()) -> str:
    """The repo `owner/name`, or the absolute path, that a file in `folder` names. A repo is never a folder.

    Raises:
        LoadError: a path that leads out of the folder and into none of the folders that the program allows.
    """
    return name if is_repo(name) else str(path_inside(name, folder, allowed))


def fetch_small_files(location: Location, subfolder: str) -> Path:
    """The local folder of a component, with all files but its weights. LoadError if a repo has no such folder."""
    names = location.names(subfolder)
    if isinstance(location, Repo) and not names and not location.online:
        raise LoadError(location.lacks(f"files of {subfolder or 'it'}"))
    if isinstance(location, Repo) and not names:
        folders = ", ".join(sorted({str(PurePosixPath(path).parent) for path in location.files} - {"."})) or "none"
        raise LoadError(f"{location.source}: has no folder {subfolder!r}. It has: {folders}.")
    small = [name for name in names if name.endswith(_SMALL) and ".index." not in name]
    try:
        check_limit("small_files", len(small) if isinstance(location, Repo) else 0)
    except AboveLimit as error:
        raise LoadError(f"{location.source}/{subfolder}: the folder {error}") from None
    return location.local(subfolder, small)
