"""The content of a source: an index of a pipeline, or one component. And components that a user names by paths."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..components.handle import Handle
from ..components.loading.index import Index, read_index
from ..components.loading.single_file.checkpoint import component_of, index_of, open_checkpoint
from ..components.spec import ComponentSpec
from ..components.storage.hub import Access
from ..graph import Graph, LoadError
from ..graph.files.forms import FILE_NAME
from ..graph.files.reading import read_form
from ..graph.own_components import own_components
from ..graph.typing import untagged
from ..registry.log import LOG
from .component import Hint, component_in, component_of_class
from .control import is_control
from .saved import saved_components
from .source import (
    CodeBlocks,
    ComponentFolder,
    FamilyName,
    GraphFile,
    PipelineFolder,
    SavedGraph,
    SingleFile,
    Source,
    UnknownFolder,
    find_location,
    folder_beside,
    locate,
)


def index_at(source: Source, access: Access, config: str | Path | None = None) -> Index:
    """The index of a source; of a single file with the configs of the folder `config`. LoadError where it has none."""
    match source:
        case SingleFile(file):
            other = None if config is None else read_index(find_location(config, None, access), allowed=access.folders)
            index = index_of(file, access, other)
            LOG.info("%s: %s", file.name, open_checkpoint(file, access).report())
            return index
        case GraphFile(file):
            raise LoadError(f"{file}: this is a file, and a folder was wanted. Give the folder that holds it.")
        case FamilyName(name):
            raise LoadError(f"{name}: this is a family, which has no components. Pass a checkpoint: a folder or repo.")
        case _:
            return read_index(source.location, subfolder=source.subfolder, allowed=access.folders)


def component_at(source: Source, hint: Hint | None, access: Access) -> ComponentSpec:
    """The one component of a source that is not a single file."""
    match source:
        case ComponentFolder() | CodeBlocks() | UnknownFolder():
            return component_in(source.location, source.subfolder, hint)
        case PipelineFolder() | SavedGraph() if source.has_config:  # a component that has an index beside it
            return component_in(source.location, source.subfolder, hint)
        case SavedGraph(location, folder) if not source.has_index:
            file = location.local(folder, [FILE_NAME]) / FILE_NAME
            specs = saved_components(read_form(file), file.parent, location, access).specs
            return component_of_class(specs, hint, file)
        case _:
            index = index_at(source, access)
            specs = {name: spec.with_access(access) for name, spec in index.loadable.items()}
            return component_of_class(specs, hint, index.path)


def with_paths(
    swaps: Mapping[str, Any],  # whatever a user passed
    graph: Callable[[], Graph],
    own: Mapping[str, Any],  # specs and objects
    checkpoint: Source,
    access: Access,
) -> dict[str, Any]:
    """The swaps of `load`, with a spec for each component that is a path. Names of schedulers and slots stay texts.

    Args:
        swaps: components and slots by name.
        graph: makes the graph that they are for.
        own: the components of the checkpoint.
        checkpoint: what the user loads.
        access: how files may be fetched and read.
    """
    made = dict(swaps)
    if not any(isinstance(value, str | Path) for value in swaps.values()):
        return made
    made_graph = graph()
    components = {**own_components(made_graph), **made_graph.components}
    wants_images = any(name.startswith("ip_adapter") for name in swaps)
    for name, value in swaps.items():
        needed = components.get(name)
        is_component = needed is not None or name in own or is_control(name)
        is_component |= wants_images and name in ("image_encoder", "feature_extractor")
        names = getattr(untagged(needed.type), "is_name", None) if needed is not None else None  # of a scheduler
        named = isinstance(value, str) and names is not None and names(value)
        if isinstance(value, str | Path) and is_component and not named:
            spec = own.get(name)
            spec = spec.spec if isinstance(spec, Handle) else spec
            made[name] = _by_path(name, value, spec if isinstance(spec, ComponentSpec) else None, checkpoint, access)
    if wants_images and "image_encoder" not in (*made, *own):
        made |= _encoder_beside(swaps, made, access)
    return made


def _encoder_beside(
    swaps: Mapping[str, Any], made: Mapping[str, Any], access: Access
) -> Mapping[str, ComponentSpec]:  # Any: whatever a user passed
    """The image encoder in the folder of an IP-Adapter, where it is published; {} if there is none of its width."""
    for name, spec in made.items():
        config = spec.config if isinstance(spec, ComponentSpec) and spec.file is not None else None
        if not config or "image_width" not in config or not isinstance(swaps[name], str | Path):
            continue
        folder = folder_beside(swaps[name], "image_encoder", access)
        if isinstance(folder, ComponentFolder):
            encoder = component_at(folder, None, access).with_access(access)
            keys = encoder.read_config()
            embeds = config.get("projector") == "linear" or config.get("_class_name") == "FluxImagePromptAdapter"
            width = keys.get("projection_dim" if embeds else "hidden_size")
            if width == config["image_width"]:
                return {"image_encoder": encoder}
            LOG.info("%s: has features %s wide, and the adapter reads %s.", encoder, width, config["image_width"])
    return {}


def component_by_path(name: str, path: str | Path, checkpoint: str | Path | None = None) -> ComponentSpec:
    """The component in a folder or file, or in a repo, for a component of this name.

    checkpoint: the file of a model that it is used with, whose family completes its config.
    """
    access = Access()
    return _by_path(name, path, None, locate(path if checkpoint is None else checkpoint, access=access), access)


def _by_path(
    name: str, path: str | Path, own: ComponentSpec | None, checkpoint: Source, access: Access
) -> ComponentSpec:
    """The component of a path, for a checkpoint whose component of that name is `own`."""
    source = locate(path, access=access)
    hint = own.type_hint if own else None
    if isinstance(source, SingleFile):
        found = open_checkpoint(source.file, access)
        part = name if name in found.models() else next(iter(found.models()), "")
        fits = bool(part and hint and found.serves(part, hint[1]))
        base = _own_config(name, found.hint(part)[1], own, checkpoint, access) if part else None
        return component_of(source.file, access, hint if fits else None, part if part == name else "", base)
    if isinstance(source, FamilyName | GraphFile):
        raise LoadError(f"{name}: {str(path)!r} has no {name}. Pass the path of its folder or of its file of weights.")
    if isinstance(source, PipelineFolder | SavedGraph) and source.has_index and not source.has_config:
        return index_at(source, access).spec(name).with_access(access)
    # transformers' configs name the class that saved them, which may have more than the pipeline needs.
    named = hint if hint and hint[0] == "transformers" else None
    return component_at(source, named, access).with_access(access)


def _own_config(
    name: str, class_name: str, own: ComponentSpec | None, checkpoint: Source, access: Access
) -> Mapping[str, Any] | None:  # a config.json
    """The config of the checkpoint's component, if it is of that class; of one that a single file lacks, its family's.

    None where neither is known.
    """
    if own is not None:
        same = own.type_hint is not None and own.type_hint[1] == class_name
        return {k: v for k, v in own.read_config().items() if not k.startswith("_")} if same else None
    if isinstance(checkpoint, SingleFile):
        facts = open_checkpoint(checkpoint.file, access).family_facts.get("models", {}).get(name)
        return facts["config"] if facts and facts["class"][1] == class_name else None
    return None
