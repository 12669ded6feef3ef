"""Content keys of components: texts that are equal only for components that compute the same."""

from ..graph.errors import LoadError
from ..graph.memo.code import code_key, digest
from ..graph.memo.contents import content_key, file_key
from .spec import ComponentSpec
from .storage.hub import Repo


def spec_content(spec: ComponentSpec) -> str | None:
    """The key of a spec's class, settings and files. None if it cannot be read.

    A repo counts by its commit, and a local folder or file by the bytes of its files, which are read once.
    """
    try:
        settings = content_key([spec.hint, spec.config, spec.quantization, spec.variant, spec.subfolder])
        return digest(settings, code_key(spec.type), *(part for item in file_keys(spec).items() for part in item))
    except (LoadError, OSError):  # `ready` reports it
        return None


def file_keys(spec: ComponentSpec) -> dict[str, str]:
    """The sha256 of each file of a spec, by name; for a repo, its commit by its name."""
    if spec.pretrained_model_name_or_path is None:
        return {}
    if (file := spec.file) is not None:
        return {file.name: file_key(file)}
    location = spec.location
    if isinstance(location, Repo):
        return {location.source: location.revision}
    names = sorted(location.names(spec.subfolder))
    folder = location.local(spec.subfolder, names)
    return {name: file_key(folder / name) for name in names}
