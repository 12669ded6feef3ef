"""`sf.push_to_hub`: a pipeline as a repo of the Hub. What is uploaded is listed first, file by file."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..components.handle import Handle
from ..components.storage.hub import hub_errors
from ..graph import Graph, LoadError
from ..registry import counted, printable
from ..registry.log import LOG
from .keywords import checked_keywords
from .save import save_pretrained


@dataclass(frozen=True)
class Upload:
    """The files of an upload. `print(upload)` lists them."""

    repo: str
    """`owner/name`."""
    files: Mapping[str, int]
    """The bytes of each file, by its path in the repo."""
    sources: Mapping[str, str]
    """Where the files of each component come from: a folder of this machine, a repo, or an object of the program."""
    url: str | None = None
    """The address of the commit; None if nothing was uploaded."""

    def __str__(self) -> str:
        size = sum(self.files.values())
        width = max(map(len, self.files), default=0)
        rows = [f"  {path:<{width}}  {count:>14,} bytes" for path, count in self.files.items()]
        origins = [f"  {name} is from {source}" for name, source in self.sources.items()]
        head = f"{self.repo}: {counted(len(self.files), 'file')}, {size / 1e6:,.1f} MB"
        return "\n".join(map(printable, [head, *rows, *origins]))


@checked_keywords
def push_to_hub(
    graph: Graph,
    repo: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
    dry_run: bool = False,
) -> Upload:
    """Upload a bound graph to the Hub, as `save_pretrained` writes it, in one commit.

    The files are listed in the log before the upload, and no others are sent. The repo is made if there is none.

    Args:
        graph: with all its components bound.
        repo: `owner/name`.
        private: whether a new repo is private; None for the owner's default.
        token: of the Hub; None for that of `hf auth login`.
        revision: the branch.
        commit_message: the title of the commit.
        create_pr: open a pull request instead.
        license: named on the card.
        dry_run: list the files and upload nothing.

    Returns:
        The list of the files, with the address of the commit.

    Raises:
        SaveError: a component cannot be written; see `save_pretrained`.
        LoadError: the Hub refuses, or a file cannot be read.
    """
    with tempfile.TemporaryDirectory() as made, hub_errors(repo, revision):
        place = save_pretrained(graph, Path(made, repo.rpartition("/")[2]), repo=repo, license=license)
        upload = Upload(repo, files_of(place), {n: _source(v) for n, v in graph.bindings.items() if v is not None})
        LOG.info("%s", upload)
        if dry_run:
            return upload
        message = commit_message or f"{'/'.join(graph.preset or ('graph',))}, written by sfumato"
        url = _commit(place, upload, private, token, revision=revision, create_pr=create_pr, commit_message=message)
    return Upload(repo, upload.files, upload.sources, url)


def files_of(place: Path) -> dict[str, int]:
    """The bytes of each file below a folder, by its path there. LoadError for a link, and for anything but a file."""
    found: dict[str, int] = {}
    for folder, folders, names in os.walk(place):
        for path in sorted(Path(folder, name) for name in (*folders, *names)):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise LoadError(f"{path}: is a link or no plain file. Nothing was uploaded. Put the file itself there.")
            if path.is_file():
                found[path.relative_to(place).as_posix()] = path.stat().st_size
    return dict(sorted(found.items()))


def _commit(place: Path, upload: Upload, private: bool | None, token: str | bool | None, **commit: Any) -> str:
    """Upload exactly the listed files. Gives the address of the commit."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token)
    api.create_repo(upload.repo, private=private, exist_ok=True)
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=place / path) for path in upload.files]
    try:
        return str(api.create_commit(upload.repo, operations, **commit).commit_url)
    except RuntimeError as error:  # the client's, where a large file does not get through
        raise LoadError(f"{upload.repo}: {error} {error.__cause__ or ''} Nothing was committed; try again.") from error


def _source(value: Any) -> str:  # whatever is bound
    if not isinstance(value, Handle) or (path := value.spec.pretrained_model_name_or_path) is None:
        return "an object of this program"
    return f"{path}/{value.spec.subfolder}".rstrip("/")
