"""The source that a user names: a preset, a family, a file, a folder or a repo. `locate` decides it for all readers."""

import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from ..components.loading.code.reading import CONFIG
from ..components.loading.index import CLASSIC, MODULAR
from ..components.loading.single_file.checkpoint import ENDS
from ..components.storage.files import CONFIGS, has_files
from ..components.storage.hub import Access, is_repo, open_repo
from ..components.storage.location import Folder, Location, location_of
from ..components.storage.tensors import PICKLES
from ..graph import ConfigError, Graph, LoadError
from ..graph.files.forms import FILE_NAME
from ..registry import did_you_mean, models, schedulers
from ..registry import presets as families
from .addresses import parse_address
from .names import EMBEDDED, is_embedded, names


@dataclass(frozen=True)
class FamilyName:
    """A family without a checkpoint ("sd"). Its graphs have no component bound."""

    name: str


@dataclass(frozen=True)
class SingleFile:
    """A file of weights on this machine. A file of a repo was fetched."""

    file: Path


@dataclass(frozen=True)
class GraphFile:
    """A file with one graph. `sf.load` takes its folder; `sf.inspect` takes the file too."""

    file: Path


@dataclass(frozen=True)
class _InFolder:
    """A folder, or a repo at one commit, and the subfolder to read."""

    location: Location
    subfolder: str = ""

    @property
    def has_index(self) -> bool:
        """Whether it has `modular_model_index.json` or `model_index.json`."""
        return not {CLASSIC, MODULAR}.isdisjoint(self.location.names(self.subfolder))

    @property
    def has_config(self) -> bool:
        """Whether it has the config of one component."""
        return not self.location.names(self.subfolder).isdisjoint(CONFIGS)


@dataclass(frozen=True)
class EmbeddedPreset(_InFolder):
    """A preset whose model this package includes ("emoji")."""

    name: str = ""


class SavedGraph(_InFolder):
    """A folder with a `graph.json`. `save_pretrained` writes an index beside it."""


class PipelineFolder(_InFolder):
    """A folder with an index and no `graph.json`."""


class CodeBlocks(_InFolder):
    """A folder with a `modular_config.json`, which names a block class, and with no index and no graph."""


class ComponentFolder(_InFolder):
    """A folder with the files of one component."""


class UnknownFolder(_InFolder):
    """A folder with none of these files. Who reads it says which file is missing."""


Source: TypeAlias = (
    FamilyName
    | EmbeddedPreset
    | SingleFile
    | GraphFile
    | SavedGraph
    | PipelineFolder
    | CodeBlocks
    | ComponentFolder
    | UnknownFolder
)


def locate(x: str | Path, *, revision: str | None = None, subfolder: str = "", access: Access | None = None) -> Source:
    """Decide what `x` is: by its name first, then by the names of the files that it has.

    Args:
        x: the name of a preset or family, a folder, a repo ("owner/name"), a file, a file of a repo
            ("owner/name/file.safetensors"), a path inside an included model ("emoji/adapters/two-tone.safetensors"), or
            an address of the Hub as a browser shows it.
        revision: branch, tag or commit of a repo.
        subfolder: the folder inside a folder or repo. A single file ignores it.
        access: how files may be fetched. A file of a repo is fetched here.

    Raises:
        LoadError: `x` is none of these, the Hub refuses, or the subfolder leads out of the folder.
    """
    access = access or Access()
    _check_argument(x)
    x = _in_package(x)
    if is_embedded(x):
        folder = Folder(EMBEDDED / x)
        return _in_folder(folder, subfolder) if subfolder else EmbeddedPreset(folder, name=x)
    if isinstance(x, str) and x in families and not Path(x).is_dir():
        return FamilyName(x)
    if (address := parse_address(x)) is not None:
        x, revision = address.name, revision or address.revision
        if address.path.endswith(ENDS):
            x = f"{x}/{address.path}"
        else:
            subfolder = str(PurePosixPath(address.path, subfolder)) if address.path else subfolder
    path = Path(x).expanduser()
    if path.name.endswith(ENDS):
        return SingleFile(_weights_file(x, path, revision, access))
    if path.is_file():
        return GraphFile(path)
    return _in_folder(find_location(x, revision, access), subfolder)


def find_file(
    x: str | Path,
    noun: str,
    customary: Sequence[str],
    *,
    revision: str | None,
    subfolder: str,
    access: Access,
    also: tuple[str, ...] = (),
    beside: Mapping[str, str] | None = None,
) -> Path:
    """The one file of an adapter or an embedding that `x` names, fetched if it is in a repo.

    Args:
        x: a file, a folder, a repo, or a file of a repo.
        noun: "an adapter", for errors.
        customary: the names of published files, the likeliest first. A folder without them has one file of weights.
        revision: branch, tag or commit of a repo.
        subfolder: the folder inside a folder or repo.
        access: how files may be fetched.
        also: endings of files that are read too, beside those of weights.
        beside: for the name of a file another one that is fetched with it, if it exists.

    Raises:
        LoadError: no such file, or several.
    """
    match locate(x, revision=revision, subfolder=subfolder, access=access):
        case SingleFile(file):
            return file
        case GraphFile(file) if also and file.name.lower().endswith(also):
            return file
        case FamilyName(name):
            raise LoadError(f"{name}: this is a family. Pass the file of {noun}.")
        case GraphFile(file):
            raise LoadError(f"{file}: is no file of {noun}. Pass a .safetensors file.")
        case source:
            location, folder = source.location, source.subfolder
    names = location.names(folder)
    files = sorted(name for name in names if name.endswith((".safetensors", *PICKLES)))
    fitting = [name for name in customary if name in files][:1]
    fitting = fitting or [name for name in files if name.endswith(".safetensors")] or files
    if len(fitting) != 1:
        shown = f"It has {', '.join(files)}. Name one of them." if files else did_you_mean("", sorted(names))
        wanted = " or ".join(name for name in customary if name.endswith(".safetensors"))
        raise LoadError(f"{x}: has no {wanted}. {shown}")
    second = (beside or {}).get(fitting[0])
    return location.local(folder, [*fitting, *([second] if second in names else [])]) / fitting[0]


def folder_beside(x: str | Path, name: str, access: Access) -> Source | None:
    """The folder `name` beside a file of weights that `x` names: on this machine, or in the repo of the file.

    None if a file on this machine has no such folder beside it.
    """
    revision = None
    if (address := parse_address(x)) is not None:
        x, revision = f"{address.name}/{address.path}", address.revision
    path = Path(_in_package(x)).expanduser()
    if path.is_file():
        folder = path.absolute().parent / name
        return locate(folder, access=access) if folder.is_dir() else None
    owner, repo, *folders = str(x).split("/")[:-1]
    return locate(f"{owner}/{repo}", revision=revision, subfolder="/".join((*folders, name)), access=access)


def _in_package(x: str | Path) -> str | Path:
    """The path of a file or folder of an included model, for a text such as "emoji/adapters/two-tone.safetensors"."""
    if isinstance(x, str) and is_embedded(x.partition("/")[0]) and "/" in x and not Path(x).exists():
        inside = EMBEDDED / x
        return inside if inside.resolve().is_relative_to(EMBEDDED.resolve()) and inside.exists() else x
    return x


def find_location(x: str | Path, revision: str | None = None, access: Access | None = None) -> Location:
    """The folder or repo that `x` names. A repo is asked for its newest commit. LoadError if there is none."""
    if is_embedded(x):
        return Folder(EMBEDDED / x)
    if (address := parse_address(x)) is not None:
        x, revision = address.name, revision or address.revision
    folder = Path(x).expanduser()
    if not folder.exists() and isinstance(x, str) and is_repo(x) and not folder.parent.is_dir():
        return open_repo(x, revision, access, fresh=True)
    if folder.exists() or folder.is_absolute() or str(x).startswith((".", "~")):
        return location_of(str(folder.absolute()))
    tasks = {task for family in families.values() for task in family.tasks}
    if x in tasks:
        raise LoadError(f"{x!r} is a task. The checkpoint comes first: sf.load('emoji', {x!r}).")
    if x in {*models, *schedulers}:
        raise LoadError(f"{x!r} is a class. The folder comes first: sf.load_component(folder, {x!r}).")
    raise LoadError(f"{str(x)!r} is neither a folder nor a preset. {did_you_mean(str(x), names())}")


def _check_argument(x: object) -> None:
    """Raise ConfigError if this is neither a text nor a path, or an empty text."""
    if isinstance(x, str | os.PathLike) and str(x):
        return
    got = "an empty text" if isinstance(x, str) else f"{reprlib.repr(x)} ({type(x).__name__})"
    raise ConfigError(f"needs the name of a preset, a folder, a file or a repo. Got {got}. Write sf.load('emoji').")


def check_arguments(**arguments: tuple[object, type]) -> None:
    """Raise ConfigError for the first argument that is not None and not of its class.

    arguments: for each name the value and the class.
    """
    for name, (value, kind) in arguments.items():
        if value is not None and not isinstance(value, kind):
            wanted = {str: "a text", Access: "sf.Access(…)", Graph: "a graph"}.get(kind, f"a {kind.__name__}")
            raise ConfigError(f"{name}: needs {wanted}. Got {reprlib.repr(value)} ({type(value).__name__}).")


def checked_access(
    access: Access | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
    force_download: bool,
    allow_pickle: bool,
    **arguments: tuple[object, type],
) -> Access:
    """The `Access` of a call: `access=`, or one made of the keywords. Checks the other arguments as `check_arguments`.

    Raises:
        ConfigError: an argument of another class, or `access=` beside one of its fields.
    """
    check_arguments(**arguments, access=(access, Access))
    keywords = Access(token, cache_dir and str(cache_dir), local_files_only, force_download, allow_pickle)
    if access is None:
        return keywords
    if keywords != Access():
        both = [name for name in ("token", "cache_dir", "local_files_only", "force_download", "allow_pickle")
                if getattr(keywords, name) != getattr(Access(), name)]  # fmt: skip
        raise ConfigError(
            f"access= and {', '.join(f'{name}=' for name in both)} were both passed. Put the setting into "
            f"access=sf.Access({both[0]}=…), or leave access= out."
        )
    return access


def _in_folder(location: Location, subfolder: str) -> Source:
    names = location.names(subfolder)
    if FILE_NAME in names:
        return SavedGraph(location, subfolder)
    if not names.isdisjoint((CLASSIC, MODULAR)):
        return PipelineFolder(location, subfolder)
    if CONFIG in names:
        return CodeBlocks(location, subfolder)
    if has_files(names) or "config.json" in names:
        return ComponentFolder(location, subfolder)
    return UnknownFolder(location, subfolder)


def _weights_file(x: str | Path, path: Path, revision: str | None, access: Access) -> Path:
    """A file of weights: on this machine, or `owner/name/file` of the Hub, which is fetched."""
    if path.is_file():
        return path.absolute()
    parts = str(x).split("/")
    if len(parts) > 2 and is_repo("/".join(parts[:2])) and not path.parent.is_dir():
        repo = open_repo("/".join(parts[:2]), revision, access, fresh=True)
        folder, name = "/".join(parts[2:-1]), parts[-1]
        if name not in (files := repo.names(folder)):
            raise LoadError(f"{repo.source}: has no file {'/'.join(parts[2:])!r}. {did_you_mean(name, sorted(files))}")
        return repo.local(folder, [name]) / name
    raise LoadError(f"{path}: there is no such file. The working folder is {Path.cwd()}.")
