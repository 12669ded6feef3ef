"""Repos of the Hub, each at one commit, in the cache of the `huggingface_hub` client."""

import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ...graph.errors import LoadError, SfumatoError
from ...graph.limits import limit
from ...registry import printable
from .listing import RepoFile, checked_session, read_listing, read_numbers
from .parallel import Stopped, run_parallel

if TYPE_CHECKING:
    from filelock import BaseFileLock

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_REVISION = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*")
_LOCK = threading.RLock()
_DISK_RESERVE = 64 * 2**20  # bytes that stay free on a disk


def is_repo(name: str) -> bool:
    """Whether a text has the form `owner/name`.

    >>> is_repo("stabilityai/sdxl-vae"), is_repo("./folder/sub"), is_repo("emoji")
    (True, False, False)
    """
    return _REPO.fullmatch(name) is not None and ".." not in name


def is_revision(name: str) -> bool:
    """Whether a text can be a branch, tag or commit. The client writes files of these names into its cache.

    >>> is_revision("refs/pr/1"), is_revision("../../etc")
    (True, False)
    """
    return _REVISION.fullmatch(name) is not None


@dataclass(frozen=True)
class Access:
    """Rules for fetching and reading files. They are not part of a component's loading key, and are never saved."""

    token: str | bool | None = field(default=None, repr=False)
    """The token of the Hub; None for that of `hf auth login`."""
    cache_dir: str | None = None
    """The cache folder; None for that of the Hub's client."""
    local_files_only: bool = False
    """Use the cache only; send no request."""
    force_download: bool = False
    """Fetch files again that the cache has."""
    allow_pickle: bool = False
    """Also read `.ckpt`, `.pt` and `.bin` files, by torch's reader of plain tensors. Code in them is not run."""
    folders: Sequence[str | Path] = ()
    """Folders of this machine that an index or a graph file may name. By default it may name its own folder alone."""

    def __post_init__(self) -> None:
        if self.cache_dir is not None:  # one folder, wherever the program goes later
            object.__setattr__(self, "cache_dir", str(Path(self.cache_dir).expanduser().absolute()))
        folders = [self.folders] if isinstance(self.folders, str | Path) else self.folders
        object.__setattr__(self, "folders", tuple(str(Path(name).expanduser().absolute()) for name in folders))


@dataclass(frozen=True, eq=False)
class Repo:
    """A repo at one commit. Its files are fetched when they are needed."""

    source: str
    """`owner/name`."""
    revision: str
    """The commit of all files."""
    files: Mapping[str, RepoFile]
    """By path in the repo."""
    access: Access
    online: bool
    """Whether the Hub answered. If not, `files` are those of the cache."""
    branch: str | None = None
    """The branch or tag that names the commit."""
    _fresh: set[str] = field(default_factory=set[str], repr=False)

    def names(self, subfolder: str = "") -> frozenset[str]:
        """The names of the files in a folder of the repo, without its subfolders."""
        return self._names.get(str(PurePosixPath(subfolder)), frozenset())

    @cached_property
    def _names(self) -> Mapping[str, frozenset[str]]:
        """The names of the files by folder."""
        found: dict[str, set[str]] = {}
        for path in map(PurePosixPath, self.files):
            found.setdefault(str(path.parent), set()).add(path.name)
        return {folder: frozenset(names) for folder, names in found.items()}

    def size(self, subfolder: str, name: str) -> int | None:
        """The bytes of a file; None if the Hub does not say."""
        return self.files[str(PurePosixPath(subfolder, name))].size

    def numbers(self, subfolder: str, name: str) -> dict[str, int]:
        """Count the values of each dtype in a safetensors file. Only its header is fetched."""
        path = str(PurePosixPath(subfolder, name))
        if not self.online:
            raise LoadError(self.lacks(path))
        with hub_errors(self.source, self.revision, self.access):
            return read_numbers(self.source, path, self.revision, self.access.token)

    def has(self, subfolder: str, name: str) -> bool:
        """Whether the cache has the file."""
        return (self._root() / subfolder / name).is_file()

    def local(self, subfolder: str, names: Iterable[str]) -> Path:
        """The local copy of a folder, with these files in it. Those that the cache lacks are fetched.

        Each file appears whole or not at all. Files that are complete stay after an interrupted download, and the parts
        of others are removed by the next one.

        Raises:
            LoadError: no connection, no room on the disk, or a file with another hash than the Hub names.
        """
        paths = sorted(str(PurePosixPath(subfolder, name)) for name in names)
        root = self._root()
        with _LOCK:
            missing = [p for p in paths if not (root / p).is_file() or self._must_refetch(p)]
            if missing:
                self._fetch(missing)
            if self.online and self.branch not in (None, self.revision):
                with suppress(OSError):  # a cache that is read-only has the files all the same
                    self._write_branch()
        return root / subfolder

    def lacks(self, what: str) -> str:
        """The error text for files that the cache lacks while the Hub cannot be reached."""
        return f"{self.source}: {_offline(self.access)}, and the cache has no {what}. {_online_advice(self.access)}."

    def _cache(self) -> Path:
        """The folder of the repo in the cache."""
        return self._root().parents[1]

    def _root(self) -> Path:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        cache = Path(self.access.cache_dir or constants.HF_HUB_CACHE).expanduser()
        return cache / repo_folder_name(repo_id=self.source, repo_type="model") / "snapshots" / self.revision

    def _must_refetch(self, path: str) -> bool:
        return self.access.force_download and path not in self._fresh

    def _fetch(self, paths: list[str]) -> None:
        if not self.online:
            raise LoadError(self.lacks(", ".join(paths[:8])))
        with hub_errors(self.source, self.revision, self.access):
            self._remove_parts(paths)
        self._check_disk(sum(self.files[path].size or 0 for path in paths))
        with hub_errors(self.source, self.revision, self.access):
            run_parallel(self._download, paths)

    def _write_branch(self) -> None:
        """Write the commit of the branch where the client looks it up offline. The files are there before it."""
        file = self._cache() / "refs" / str(self.branch)
        if file.is_file() and file.read_text(encoding="utf-8") == self.revision:
            return
        part = self._cache() / "blobs" / f"refs.{uuid4().hex}.incomplete"  # which `_remove_parts` finds
        file.parent.mkdir(parents=True, exist_ok=True)
        self._remove_parts([])
        with self._lock("refs", seconds=10):
            part.write_text(self.revision, encoding="utf-8")
            os.replace(part, file)

    def _lock(self, name: str, seconds: float) -> "BaseFileLock":
        """The lock under which the client writes the blob of this name."""
        from filelock import FileLock

        file = self._cache().parent / ".locks" / self._cache().name / f"{name}.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(file, timeout=seconds, mode=0o664)

    def _remove_parts(self, paths: list[str]) -> None:
        """Remove parts of files that killed downloads left in the cache: no process holds the client's lock of them.

        Parts that the client can continue for these paths stay; older clients name them by the hash alone.
        """
        from filelock import Timeout

        continued = {f"{self.files[path].sha256}.incomplete" for path in paths}
        for part in [p for p in (self._cache() / "blobs").glob("*.incomplete") if p.name not in continued]:
            with suppress(Timeout), self._lock(part.name.partition(".")[0], seconds=0):
                part.unlink(missing_ok=True)

    def _download(self, path: str, stop: threading.Event) -> None:
        from huggingface_hub import hf_hub_download

        checked_session()
        size = self.files[path].size
        most = limit("config_bytes") if size is None else size
        file = hf_hub_download(
            self.source, path, revision=self.revision, token=self.access.token, cache_dir=self.access.cache_dir,
            force_download=self._must_refetch(path), tqdm_class=_bar(stop, f"{self.source}/{path}", most),
        )  # fmt: skip
        self._verify(path, Path(file))
        self._fresh.add(path)

    def _verify(self, path: str, file: Path) -> None:
        """Compare a downloaded file with the size and the hash that the repo names. A file that differs is removed."""
        expected = self.files[path]
        size = file.stat().st_size
        found = ""
        if expected.size is not None and size != expected.size:
            found = f"has {size} bytes, and the repo names {expected.size}"
        elif expected.sha256 is not None and (actual := _sha256(file)) != expected.sha256:
            found = f"has the SHA-256 {actual[:16]}…, and the repo names {expected.sha256[:16]}…"
        elif expected.git_hash is not None and (actual := _git_hash(file)) != expected.git_hash:
            found = f"has the Git hash {actual[:16]}…, and the repo names {expected.git_hash[:16]}…"
        if not found:
            return
        with file.open("rb") as data:
            if data.read(64).lstrip()[:1] == b"<":
                found += ". It is a web page, as a network sends it that asks to sign in"
        file.resolve().unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        raise LoadError(
            f"{self.source}/{path}: the downloaded file {found}. The file was removed. Try again; if it happens again, "
            "do not use this repo."
        )

    def _check_disk(self, size: int) -> None:
        folder = self._root()
        while not folder.is_dir():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if size + _DISK_RESERVE > free:
            raise LoadError(
                f"{self.source}: the download needs {size / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB free. "
                "Make room, or pass cache_dir= on a larger disk (or set HF_HOME)."
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _git_hash(file: Path) -> str:
    """The SHA-1 of a file as a blob of Git."""
    made = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    with file.open("rb") as data:
        while part := data.read(1 << 20):
            made.update(part)
    return made.hexdigest()


_opened: dict[tuple[str, str | None, Access], Repo] = {}


def open_repo(name: str, revision: str | None = None, access: Access | None = None, *, fresh: bool = False) -> Repo:
    """A repo at a revision. The Hub is asked once in a process, and again if `fresh`.

    If the Hub cannot be reached, the files of the cache are used.

    Raises:
        LoadError: no such repo or revision, a gated repo, or no connection and no copy in the cache.
    """
    access = access or Access()
    if revision is not None and not is_revision(revision):
        raise LoadError(f"{name}: needs a branch, tag or commit such as 'main', got the revision {revision!r}.")
    with _LOCK:
        key = (name, revision, access)
        if fresh or key not in _opened:
            with hub_errors(name, revision, access):
                repo = _listed(name, revision, access) or _cached(name, revision, access)
            _opened[key] = repo
            _opened[name, repo.revision, access] = repo
        return _opened[key]


def _listed(name: str, revision: str | None, access: Access) -> Repo | None:
    """The repo by one request to the Hub; None if the Hub cannot be reached."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if access.local_files_only or constants.HF_HUB_OFFLINE:
        return None
    # The base of every error of the HTTP library under the client, whichever that is (httpx, then httpx2).
    broken = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
    assert issubclass(broken, Exception)
    try:
        found = read_listing(name, revision, access.token)
    except (HfHubHTTPError, OfflineModeIsEnabled) as error:
        if isinstance(error, OfflineModeIsEnabled):
            return None
        raise
    except (OSError, broken):
        return None
    return Repo(name, found.commit, found.files, access, online=True, branch=revision or "main")


def _cached(name: str, revision: str | None, access: Access) -> Repo:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(name, revision=revision, cache_dir=access.cache_dir, local_files_only=True)
    root = Path(folder)
    files = {p.relative_to(root).as_posix(): RepoFile(p.stat().st_size) for p in root.rglob("*") if p.is_file()}
    return Repo(name, root.name, files, access, online=False)


def _bar(stop: threading.Event, name: str, most: int) -> type[Any]:  # the client's bars are untyped
    """The client's progress bar, which shows names of files. Each piece of a download updates it, so a download can be
    stopped here: by `stop`, and where more than `most` bytes come."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        @property
        def format_dict(self) -> dict[str, Any]:
            shown = super().format_dict
            return {**shown, "prefix": printable(shown["prefix"] or "")}

        def update(self, n: float | None = 1) -> bool | None:
            if stop.is_set():
                raise Stopped
            self.received = getattr(self, "received", 0) + (n or 0)
            if self.received > most:
                raise LoadError(f"{name}: the server sends more than the {most} bytes that the repo names. Stopped.")
            return super().update(n)

    return Bar


def _offline(access: Access) -> str:
    if access.local_files_only:
        return "local_files_only is set"
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"


def _online_advice(access: Access) -> str:
    return {
        "local_files_only is set": "Leave local_files_only out to fetch it",
        "HF_HUB_OFFLINE is set": "Unset HF_HUB_OFFLINE to fetch it",
    }.get(_offline(access), "Check the connection and HF_ENDPOINT")


@contextmanager
def hub_errors(repo: str, revision: str | None = None, access: Access | None = None) -> Generator[None]:
    """Raise errors of the client as LoadErrors that say what to do."""
    from huggingface_hub import errors

    broken = next(cls for cls in errors.HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
    assert issubclass(broken, Exception)
    try:
        yield
    except SfumatoError:
        raise
    except errors.GatedRepoError as error:
        page = str(error.response.request.url).partition(f"/{repo}")[0] + f"/{repo}"
        has_token = error.response.status_code == 403
        reason = "and your token has no access to it" if has_token else "and no token was sent"
        way_out = f"Ask for access at {page}" + ("" if has_token else ", then run `hf auth login` or pass token=")
        raise LoadError(f"{repo}: the repo is gated, {reason}. {way_out}.") from None
    except errors.RevisionNotFoundError:
        raise LoadError(f"{repo}: there is no revision {revision!r}. Leave it out for the newest.") from None
    except errors.RepositoryNotFoundError:
        way_out = "Check the name; for a private repo, run `hf auth login`"
        raise LoadError(f"{repo}: there is no such folder, and no such repo on the Hub. {way_out}.") from None
    except errors.LocalEntryNotFoundError:
        where = f" at revision {revision!r}" if revision else ""
        access = access or Access()
        way_out = f"{_online_advice(access)}, or pass a local folder"
        raise LoadError(f"{repo}: {_offline(access)}, and the cache has no copy{where}. {way_out}.") from None
    except errors.HFValidationError as error:
        raise LoadError(f"{repo}: {error}") from None
    except errors.HfHubHTTPError as error:
        raise LoadError(f"{repo}: the Hub answered with an error: {error}. Try again later.") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError, broken) as error:
        advice = _download_advice(error)
        raise LoadError(f"{repo}: the download failed ({type(error).__name__}: {error}). {advice}.") from error


def _download_advice(error: Exception) -> str:
    match error:
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return "The disk is full: make room, or pass cache_dir= on a larger one (or set HF_HOME)"
        case OSError(errno=errno.EROFS | errno.EACCES | errno.EPERM):
            return "The cache cannot be written: pass cache_dir= (or set HF_HOME) where you may write"
        case _:
            return "Complete files are kept; the next call fetches the others"
