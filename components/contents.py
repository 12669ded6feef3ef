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
        return digest(settings, code_key(spec.type), *_files(spec))
    except (LoadError, OSError):  # `ready` reports it
        return None


def _files(spec: ComponentSpec) -> list[str]:
    if spec.pretrained_model_name_or_path is None:
        return []
    if (file := spec.file) is not None:
        return [file_key(file)]
    location = spec.location
    if isinstance(location, Repo):
        return [location.source, location.revision]
    names = sorted(location.names(spec.subfolder))
    folder = location.local(spec.subfolder, names)
    return [part for name in names for part in (name, file_key(folder / name))]
