"""Repos of the Hub: the files that a pipeline's index names, through the cache of the `huggingface_hub` client."""

import json
import re
from pathlib import Path

from ...graph.errors import LoadError

_INDEXES = ("modular_model_index.json", "model_index.json", "graph.json")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_VARIANTS = ("fp16", "bf16", "fp32", "non_ema", "ema")


def is_repo(name: str) -> bool:
    """Whether a text has the form `owner/name`.

    >>> is_repo("stabilityai/sdxl-vae"), is_repo("./folder/sub"), is_repo("emoji")
    (True, False, False)
    """
    return _REPO.fullmatch(name) is not None


def fetch(repo: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The local copy of a repo: its index, and configs, tokenizers and safetensors of the components that it names.

    Everything is taken at one commit. What is in the cache is not fetched again, and serves where the Hub is not
    reached. Raises `LoadError`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )  # fmt: skip

    try:
        reached = _reached(repo, revision)
        index = _index(repo, revision, reached)
        commit = index.parent.name  # the cache keeps a folder for each commit: the rest is of the same
        allowed = [*_INDEXES, *patterns(list(json.loads(index.read_text(encoding="utf-8"))), variant)]
        others = [] if variant else [f"*.{name}[.-]*" for name in _VARIANTS]
        folder = snapshot_download(
            repo, revision=commit, allow_patterns=allowed, ignore_patterns=others, local_files_only=not reached
        )
        return Path(folder)
    except GatedRepoError:
        raise LoadError(f"{repo}: the repo is gated. Ask for access on its page, then `hf auth login`.") from None
    except RevisionNotFoundError:
        raise LoadError(f"{repo}: there is no revision {revision!r}. Leave it out for the newest.") from None
    except RepositoryNotFoundError:
        way_out = "Check the name; for a private repo, `hf auth login`"
        raise LoadError(f"{repo}: there is no such folder here, and no such repo on the Hub. {way_out}.") from None
    except LocalEntryNotFoundError:
        way_out = "Check the connection and HF_ENDPOINT, or give a local folder"
        raise LoadError(f"{repo}: the Hub cannot be reached, and the cache has no copy. {way_out}.") from None
    except HfHubHTTPError as error:
        raise LoadError(f"{repo}: the Hub answered with an error: {error}. Try again later.") from error


def _reached(repo: str, revision: str | None) -> bool:
    """Whether the Hub answers for this repo; asked once, without the retries of a download."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # The base of every error of the HTTP library under the client, whichever that is (httpx, then httpx2).
    broken = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
    assert issubclass(broken, Exception)
    try:
        HfApi().model_info(repo, revision=revision)
    except HfHubHTTPError:
        raise
    except (OSError, broken):
        return False
    return True


def _index(repo: str, revision: str | None, reached: bool) -> Path:
    """The first index file that the repo has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    missing: EntryNotFoundError | LocalEntryNotFoundError | None = None
    for name in _INDEXES:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, local_files_only=not reached))
        except (EntryNotFoundError, LocalEntryNotFoundError) as error:
            missing = error
    if isinstance(missing, LocalEntryNotFoundError):
        raise missing
    raise LoadError(f"{repo}: the repo has none of {', '.join(_INDEXES)}, so it holds no pipeline. Name one that does.")


def patterns(names: list[str], variant: str | None = None) -> list[str]:
    """What to fetch for these components; keys of an index that are none match nothing.

    >>> patterns(["unet"])
    ['unet/*.json', 'unet/*.txt', 'unet/*.model', 'unet/*.safetensors']
    """
    weights = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    return [f"{name}/{end}" for name in names for end in ("*.json", "*.txt", "*.model", weights)]
