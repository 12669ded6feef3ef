"""`sf.inspect`: the content of a preset, folder, repo, file or graph, by small files and headers of weights."""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from ..components.handle import Handle
from ..components.loading.code.blocks import code_in
from ..components.loading.code.isolated.protections import protections
from ..components.loading.code.reading import CONFIG
from ..components.loading.code.trust import listing
from ..components.loading.component import load_problems, weight_problems
from ..components.loading.index import Index, read_index
from ..components.loading.single_file.checkpoint import index_of, open_checkpoint, part_spec
from ..components.loading.specs import with_variant
from ..components.manager import default_manager
from ..components.memory.placement import Placement
from ..components.spec import ComponentSpec
from ..components.storage.hub import Access
from ..components.storage.location import Folder, Location
from ..graph import ConfigError, Graph, LoadError
from ..graph.files import load as load_file
from ..graph.files.faults import reads_files
from ..graph.files.forms import FILE_NAME
from ..graph.files.reading import read_form
from ..graph.typing import type_text
from ..registry import UnknownName, hint_of, with_article
from ..registry import presets as families
from .component import component_in
from .family import Family
from .inspection import InspectedComponent, Inspection
from .keywords import checked_keywords
from .load import load
from .pipeline import ComponentSettings, family_of, known_keys
from .saved import saved_components, saved_graph
from .source import (
    CodeBlocks,
    ComponentFolder,
    FamilyName,
    GraphFile,
    SavedGraph,
    SingleFile,
    Source,
    checked_access,
    locate,
)
from .weight_counts import DTYPE_NAMES, count_weights


@reads_files
@checked_keywords
def inspect(
    x: str | Path | Graph,
    *,
    revision: str | None = None,
    variant: str | None = None,
    subfolder: str = "",
    access: Access | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    allow_pickle: bool = False,
) -> Inspection:
    """List the content of a checkpoint or graph: its family and tasks, and each component with its size and its faults.

    Reads JSON files and the headers of weight files, and no tensor. Of a repo's weights, only headers are fetched.

    Args:
        x: a preset or family name, a folder, a repo, a single file of weights, a graph file, or a graph.
        revision: a branch, tag or commit of the repo.
        variant: a variant of the weight files ("fp16").
        subfolder: the folder in `x` to look at.
        access: how files may be fetched and read; `token`, `cache_dir`, `local_files_only`, `force_download` and
            `allow_pickle` are its fields, for those who do not pass it.

    Raises:
        LoadError: `x` is none of these. Faults inside it are listed in `missing`.
        ConfigError: `access` was passed beside one of its fields.
    """
    if isinstance(x, Graph):
        return _inspect_graph("graph", x)
    access = checked_access(
        access, token, cache_dir, local_files_only, force_download, allow_pickle,
        revision=(revision, str), variant=(variant, str), subfolder=(subfolder, str),
    )  # fmt: skip
    name = str(x)
    match source := locate(x, revision=revision, subfolder=subfolder, access=access):
        case SingleFile(file):
            return _inspect_file(name, file, access)
        case GraphFile(file):
            found = _inspect_graph_file(name, file, None, access)
            return _with_code(found, Folder(file.absolute().parent)) if file.name == FILE_NAME else found
        case FamilyName():
            return _inspect_graph(name, load(x))
        case _:
            found = _inspect_folder(name, source, variant, access)
            return _with_code(found, source.location, source.subfolder)


def _inspect_folder(name: str, source: Source, variant: str | None, access: Access) -> Inspection:
    match source:
        case SavedGraph(location, subfolder) if not source.has_index:
            file = location.local(subfolder, [FILE_NAME]) / FILE_NAME
            if read_form(file).auto_map:
                return _inspect_graph_file(name, file, location, access)
            settings = ComponentSettings(default_manager(), Placement(), variant=variant)
            return _inspect_graph(name, saved_graph(location, subfolder, access, settings))
        case CodeBlocks(location, subfolder):
            return Inspection(name, str(location.local(subfolder, [CONFIG])), None, None, (), (), ())
        case ComponentFolder(location, subfolder):
            spec = component_in(location, subfolder).using(variant=variant).with_access(access)
            return _inspect_component(name, spec)
        case SingleFile() | GraphFile() | FamilyName():
            raise AssertionError(source)  # `inspect` has read these
        case _:
            index = read_index(source.location, subfolder=source.subfolder, allowed=access.folders)
    specs = {name: spec.with_access(access) for name, spec in index.components.items() if spec is not None}
    if variant is not None:
        specs |= with_variant({name: spec for name, spec in specs.items() if spec.loadable}, variant)
    return _inspect_index(name, index, specs)


def _with_code(found: Inspection, location: Location, subfolder: str = "") -> Inspection:
    """The inspection with the code beside the files."""
    try:
        code = code_in(location, subfolder)
    except LoadError as error:
        return replace(found, missing=(*found.missing, str(error)))
    return found if code is None else replace(found, code=listing(code), isolation=protections())


def _inspect_graph_file(name: str, file: Path, location: Location | None, access: Access) -> Inspection:
    """A graph file. If its blocks have code of their own, which is not run, its components are listed alone."""
    form = read_form(file)
    if not form.auto_map:
        return _inspect_graph(name, load_file(Graph, file, allowed=access.folders))
    saved = saved_components(form, file.parent, location, access)
    parts = {n: _inspect_spec(n, spec, used=True) for n, spec in saved.specs.items()}
    parts |= {n: _inspect_object(n, value) for n, value in saved.objects.items()}
    parts = tuple(parts[n] for n in form.graph.components if n in parts)
    return Inspection(name, None, None, None, (), parts, (*map(str, saved.problems), *_missing(parts)))


def _inspect_index(name: str, index: Index, specs: Mapping[str, ComponentSpec]) -> Inspection:
    """The components of an index, and those that it lacks for the tasks of its family."""
    place = str(index.path)
    try:
        family = family_of(index)
    except LoadError as error:
        parts = tuple(_inspect_spec(name, spec, used=True) for name, spec in specs.items())
        return Inspection(name, place, index.class_name, None, (), parts, (str(error), *_missing(parts)))
    needed, always = _needed(family, index, specs)
    parts = tuple(_inspect_spec(name, spec, used=name in needed) for name, spec in specs.items())
    absent = [
        f"{name}: the index has none, and the tasks need {kind}."
        for name, kind in needed.items() if name not in specs and name in always
    ]  # fmt: skip
    return Inspection(
        name, place, index.class_name, family.name, _served(family, index.class_name, specs), parts,
        (*absent, *_missing(parts)),
    )  # fmt: skip


def _inspect_file(name: str, file: Path, access: Access) -> Inspection:
    """The models in a single file. Its scheduler and tokenizers are included in this package."""
    checkpoint = open_checkpoint(file, access)
    specs = {part: part_spec(checkpoint, part).with_access(access) for part in checkpoint.models()}
    if checkpoint.family:
        index = index_of(file, access)
        found = _inspect_index(name, index, {**index.loadable, **specs})
        absent = tuple(line.replace("the index has none", "the file has none") for line in found.missing)
        return replace(found, folder=None, layout=checkpoint.report(), missing=absent)
    parts = tuple(_inspect_spec(part, spec, used=True) for part, spec in specs.items())
    return Inspection(name, None, None, None, (), parts, tuple(_missing(parts)), checkpoint.report())


def _inspect_component(name: str, spec: ComponentSpec) -> Inspection:
    """One component without a pipeline around it."""
    with suppress(LoadError, UnknownName):  # `missing` has the reason
        spec = spec.using(type_hint=hint_of(spec.type))
    place = f"{spec.location.source}/{spec.subfolder}".rstrip("/")
    part = _inspect_spec(PurePosixPath(place).name, spec, used=True)
    text = "one component, which sf.load_component gives"
    return Inspection(name, place, None, None, (), (part,), tuple(_missing([part])), text)


def _inspect_graph(name: str, graph: Graph) -> Inspection:
    """The bindings of a graph. Its tasks are those of the family that it was made for."""
    family, task = graph.preset or (None, None)
    tasks = (task,) if task else ()
    if family is not None and family in families:
        tasks = _served(families[family], None, graph.bindings)
    parts: list[InspectedComponent] = []
    absent: list[str] = []
    for component, needed in graph.components.items():
        bound = graph.bindings.get(component)
        if isinstance(bound, Handle):
            parts.append(_inspect_spec(component, bound.spec, used=True))
        elif bound is not None:
            parts.append(_inspect_object(component, bound))
        elif needed.required:
            absent.append(f"{component}: nothing is bound, and {_kind(needed.type)} is needed.")
    return Inspection(name, None, None, family, tasks, tuple(parts), (*absent, *_missing(parts)))


def _needed(family: Family, index: Index, specs: Mapping[str, ComponentSpec]) -> tuple[dict[str, str], frozenset[str]]:
    """The components that some task needs, with their classes; and the names of those that all tasks need."""
    tasks = _served(family, index.class_name, specs) or tuple(family.tasks)
    graphs = [_graph(family, task, index, specs) for task in tasks]
    each = [{name: _kind(part.type) for name, part in g.components.items() if part.required} for g in graphs]
    return {name: kind for kinds in each for name, kind in kinds.items()}, frozenset.intersection(*map(frozenset, each))


def _kind(component: Any) -> str:  # the type of a component
    """A class, a base class without the type of its config, or a union of them, for people."""
    return with_article(type_text(component).replace("[Any]", ""))


def _served(family: Family, class_name: str | None, components: Mapping[str, Any]) -> tuple[str, ...]:
    """The tasks that a folder serves, by its class and its denoiser; if its config cannot be read, by its class."""
    # components: specs, handles and objects
    tasks = family.tasks_of(class_name)
    try:
        served = family.served(components)
    except (LoadError, ConfigError):
        return tasks
    return tuple(task for task in tasks if task in served)


def _graph(family: Family, task: str, index: Index, specs: Mapping[str, ComponentSpec]) -> Graph:
    """A task's graph for this checkpoint; if its configs cannot be read, with the family's defaults."""
    try:
        return family.make(task, specs, **known_keys(family, index))
    except (LoadError, ConfigError):
        return family.make(task, {})


def _inspect_spec(name: str, spec: ComponentSpec, *, used: bool) -> InspectedComponent:
    class_name = spec.type_hint[1] if spec.type_hint else "unknown"
    where = spec.pretrained_model_name_or_path or ("inline config" if spec.config is not None else "nowhere")
    source = "/".join(part for part in (where, spec.subfolder) if part)
    missing = load_problems(spec) if used else []
    if used and not missing and spec.file is not None:
        missing = weight_problems(spec)
    counts, size = Counter[str](), 0
    try:
        counts, size = count_weights(spec)
    except LoadError as error:
        missing = [*missing, *([str(error)] if used and str(error) not in missing else [])]
    dtypes = ", ".join(DTYPE_NAMES.get(dtype, dtype) for dtype, _ in counts.most_common())
    return InspectedComponent(name, class_name, source, dtypes, size, counts.total(), used, tuple(missing))


def _inspect_object(name: str, value: Any) -> InspectedComponent:  # whatever is bound
    tensors = list(value.parameters()) if isinstance(value, nn.Module) else []
    dtypes = Counter(str(t.dtype).removeprefix("torch.") for t in tensors)
    size, count = sum(t.nbytes for t in tensors), sum(t.numel() for t in tensors)
    return InspectedComponent(name, type(value).__name__, "an object", ", ".join(dtypes), size, count)


def _missing(parts: Iterable[InspectedComponent]) -> list[str]:
    return [f"{part.name}: {text}" for part in parts for text in part.missing]
