"""`sf.load_embedding`: textual inversion from a file, a folder or a repo."""

from pathlib import Path, PurePosixPath

from ..components.adapters.embedding import Embedding
from ..components.adapters.embedding_files import PICTURES, read_content
from ..components.adapters.embedding_layouts import Origin, embedding_of
from ..components.storage.hub import Access
from ..components.storage.tensors import PICKLES
from ..graph import ConfigError
from .keywords import checked_keywords
from .source import check_arguments, checked_access, find_file

_STEM = "learned_embeds"
"""The stem under which diffusers publishes embeddings. The name of such a one is that of its folder."""
_CUSTOMARY = tuple(f"{_STEM}{end}" for end in (".safetensors", *PICKLES))


@checked_keywords
def load_embedding(
    x: str | Path,
    *,
    token: str | None = None,
    name: str | None = None,
    subfolder: str = "",
    revision: str | None = None,
    access: Access | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    allow_pickle: bool = False,
) -> Embedding:
    """Read an embedding: a value that `pipe.with_adapters(e)` or `pipe(…, adapters=[e])` applies, as an adapter.

    Args:
        x: a file, a folder, a repo ("owner/name"), or a file of a repo ("owner/name/file.safetensors"). A picture of
            A1111 with an embedding in it is read too.
        token: the word, as a prompt writes it; by default the file's, else `name`. Of a file with several words, it
            chooses one.
        name: what calls and errors call it, and `embedding:name` in a prompt; by default the stem of the file.
        subfolder: the folder inside a folder or repo.
        revision: a branch, tag or commit of the repo.
        access: how files may be fetched and read; see `sf.load`. The arguments after it are its fields. The token of
            the Hub is `access=sf.Access(token=…)`.

    Raises:
        LoadError: no such file, no known layout, or tensors that are no vectors.
    """
    check_arguments(token=(token, str))
    if token is not None and token.startswith("hf_"):
        raise ConfigError(
            "token: is the word that a prompt writes. Pass the token of the Hub as access=sf.Access(token=…)."
        )
    access = checked_access(
        access, None, cache_dir, local_files_only, force_download, allow_pickle,
        name=(name, str), subfolder=(subfolder, str), revision=(revision, str),
    )  # fmt: skip
    file = find_file(
        x, "an embedding", _CUSTOMARY, revision=revision, subfolder=subfolder, access=access, also=PICTURES
    )
    own = PurePosixPath(str(x)).name if file.stem == _STEM and not Path(x).is_file() else file.stem
    content = read_content(file, allow_pickle=access.allow_pickle)
    return embedding_of(content, Origin(str(x), name or own), token)
