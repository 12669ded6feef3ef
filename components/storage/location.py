"""Where components come from: a folder here, or a repo of the Hub. Both are looked at alike."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...graph.errors import LoadError
from .files import locate
from .hub import Access, Repo, is_repo, open_repo

_SMALL = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class Folder:
    """A local folder with a pipeline or a component in it. Nothing is ever fetched for it."""

    path: Path

    @property
    def source(self) -> str:
        return str(self.path)

    @property
    def revision(self) -> None:
        """A folder is what it is."""
        return None

    def names(self, subfolder: str = "") -> frozenset[str]:
        """The names of the files in a folder inside, links included."""
        inside = PurePosixPath(subfolder)
        if inside.is_absolute() or ".." in inside.parts or "\\" in subfolder or "\0" in subfolder:
            raise LoadError(f"{self.path}: came the subfolder {subfolder!r}; wanted a folder inside, such as 'unet'.")
        place = self.path / subfolder
        return frozenset(p.name for p in place.iterdir() if not p.is_dir()) if place.is_dir() else frozenset()

    def size(self, subfolder: str, name: str) -> int | None:
        """Bytes of a file."""
        return (self.path / subfolder / name).stat().st_size

    def local(self, subfolder: str, names: Iterable[str]) -> Path:
        """The folder inside. LoadError if it or one of the files is a link that leads out of this one, or no file."""
        place = self.path / subfolder
        home = _home(self.path)
        files = [place / name for name in names]
        for path in (place, *files):
            if not path.resolve().is_relative_to(home):
                raise LoadError(
                    f"{path}: is a link that leads out of {self.path}. A checkpoint from elsewhere could show any file "
                    "so. Put the file itself there, or give the folder that the link leads to."
                )
        for path in files:
            if path.exists() and not path.is_file():  # to read a pipe or a device may never end
                raise LoadError(f"{path}: is no plain file. Put the file itself there.")
        return place


def _home(folder: Path) -> Path:
    """The folder in which everything has to lie. The cache of the Hub's client links its snapshots to `blobs`."""
    home = folder.resolve()
    for parent in home.parents:
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            return parent.parent
    return home


Location = Folder | Repo


def location_of(source: str, revision: str | None = None, access: Access | None = None) -> Location:
    """What a source stands for: a folder that is there, else a repo `owner/name`. LoadError where it is neither."""
    folder = Path(source).expanduser()
    if not folder.exists() and is_repo(source) and not source.startswith((".", "~")) and not folder.parent.is_dir():
        return open_repo(source, revision, access)
    return Folder(locate(source))


def fetch_small_files(root: Location, subfolder: str) -> Path:
    """The local folder of a component with all but its weights. For a repo, LoadError where there is no such folder."""
    names = root.names(subfolder)
    if isinstance(root, Repo) and not names and not root.online:
        raise LoadError(root.lacks(f"files of {subfolder or 'it'}"))
    if isinstance(root, Repo) and not names:
        there = ", ".join(sorted({str(PurePosixPath(path).parent) for path in root.files} - {"."})) or "none"
        raise LoadError(f"{root.source}: there is no folder {subfolder!r} in it. There are: {there}.")
    return root.local(subfolder, (name for name in names if name.endswith(_SMALL) and ".index." not in name))
