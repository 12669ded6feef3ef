"""Graphs that were saved: with their components handled by a manager, or their entries alone, without running code."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..components.handle import Handle
from ..components.loading.code.blocks import load_graph
from ..components.loading.specs import with_quantization, with_variant
from ..components.spec import ComponentSpec
from ..components.storage.hub import Access
from ..components.storage.location import Folder, Location
from ..graph import Graph, Problem
from ..graph.files.bindings import read_components
from ..graph.files.forms import FileForm
from .pipeline import ComponentSettings


class SavedComponents(NamedTuple):
    """The components that a graph file binds."""

    specs: Mapping[str, ComponentSpec]
    objects: Mapping[str, Any]
    """The objects that the file describes inline: schedulers and guiders."""
    problems: tuple[Problem, ...]
    """Entries that cannot be read."""


def saved_graph(
    location: Location,
    subfolder: str,
    access: Access,
    settings: ComponentSettings,
    trust_remote_code: bool | str = False,
) -> Graph:
    """The graph of a `graph.json`, with its components handled as `settings` say.

    Raises:
        LoadError: the code of its blocks is not trusted, or no component has the variant.
        GraphFileError: the file does not describe a graph.
    """
    saved = load_graph(location, subfolder, trust_remote_code, access.folders)
    specs = {name: value.spec for name, value in saved.bindings.items() if isinstance(value, Handle)}
    specs = {name: spec_in(location, spec).with_access(access) for name, spec in specs.items()}
    specs = with_variant(with_quantization(specs, settings.quantization), settings.variant)
    handles = settings.placement.handles(specs, settings.manager, settings.dtype, specs)
    return saved.with_bindings({**saved.bindings, **handles})


def saved_components(form: FileForm, folder: Path, location: Location | None, access: Access) -> SavedComponents:
    """The components that a graph file binds. No block class is imported.

    Args:
        form: the file's content.
        folder: the folder of the file.
        location: the folder or repo that the file is from; None for a file by itself.
    """
    entries = {n: None if e is None else e.model_dump(exclude_unset=True) for n, e in form.graph.components.items()}
    bound, problems = read_components(entries, "graph", folder, None, access.folders)
    specs = {
        name: (value.spec if location is None else spec_in(location, value.spec)).with_access(access)
        for name, value in bound.items() if isinstance(value, Handle)
    }  # fmt: skip
    objects = {name: value for name, value in bound.items() if name not in specs and value is not None}
    return SavedComponents(specs, objects, tuple(problems))


def spec_in(location: Location, spec: ComponentSpec) -> ComponentSpec:
    """A spec beside a graph file of a repo, in that repo: the local copy has only the files that were fetched."""
    path = Path(spec.pretrained_model_name_or_path or "")
    if isinstance(location, Folder) or not path.is_relative_to(copy := location.local("", ())):
        return spec
    subfolder = str(PurePosixPath(*path.relative_to(copy).parts, spec.subfolder))
    return spec.using(pretrained_model_name_or_path=location.source, revision=location.revision, subfolder=subfolder)
