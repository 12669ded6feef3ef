"""`sf.inspect`: what a preset, folder, repo or file holds, from its small files and the headers of its weights."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from ..components.handle import Handle
from ..components.loading.code.blocks import code_in
from ..components.loading.code.reading import CONFIG
from ..components.loading.code.trust import listing
from ..components.loading.component import load_problems, weight_names_of
from ..components.loading.index import Index, read_index
from ..components.loading.single_file.checkpoint import Checkpoint, index_of, open_checkpoint, part_spec
from ..components.loading.specs import with_variant
from ..components.quantization.gguf.reader import GGUFFile
from ..components.spec import ComponentSpec
from ..components.storage.files import has_files
from ..components.storage.hub import Access, Repo
from ..components.storage.location import Folder, Location
from ..graph import ConfigError, Graph, LoadError
from ..graph.files.bindings import read as read_bindings
from ..graph.files.reading import read_form
from ..graph.typing import type_text
from ..registry import UnknownName, hint_of
from ..registry import presets as families
from .family import Family
from .load import GRAPH, alone, at, family_of, load, saved_graph
from .names import is_embedded
from .source import file_of, find_root

_BYTES = {"F64": 8, "I64": 8, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class InspectedComponent:
    """One component: its class and source, and of its weights the dtype on disk, bytes and number of parameters.

    `dtype` is "" for what has no weights; where tensors differ all dtypes are named, the one of most numbers first.
    `used` says whether a task of the family asks for it. `missing` is what would keep it from loading.
    """

    name: str
    class_name: str
    source: str
    dtype: str = ""
    bytes: int = 0
    parameters: int = 0
    used: bool = True
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What was found; `str` of it is a table. No tensor is read."""

    source: str
    folder: str | None
    """Where its files lie; None for a graph, whose components may lie anywhere."""
    class_name: str | None
    """The pipeline class that the index names; None where there is no index."""
    family: str | None
    tasks: tuple[str, ...]
    components: tuple[InspectedComponent, ...]
    missing: tuple[str, ...]
    """What would keep a task from running: absent components and files, classes that are not here, each in a line."""
    layout: str = ""
    """Of a single file: which models it holds, and in whose names."""
    code: str = ""
    """The code that it brings: files with hashes and imports. It was read, and nothing of it run."""

    @property
    def bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(part.bytes for part in self.components)

    @property
    def parameters(self) -> int:
        """Parameters of all components."""
        return sum(part.parameters for part in self.components)

    def __str__(self) -> str:
        kind = self.family or "no family that is known"
        head = [f"{self.source}", f"  family      {kind}", f"  tasks       {', '.join(self.tasks) or 'none'}"]
        if self.layout:
            head.append(f"  file        {self.layout}")
        if self.folder:
            head.append(f"  folder      {self.folder}")
        if self.parameters:
            head.append(f"  size        {_count(self.parameters)} parameters, {_size(self.bytes)} on disk")
        table = [("component", "class", "dtype", "parameters", "size", "source")]
        table += [_row(part, self.folder) for part in self.components]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        lines = [*head, "", *(f"  {row.rstrip()}" for row in rows)] if self.components else head
        if self.code:
            lines += ["", "  code", *(f"  {line}" for line in self.code.splitlines())]
        if self.missing:
            lines += ["", "  missing", *(f"    {line}" for line in self.missing)]
        return "\n".join(lines)


def inspect(
    x: str | Path | Graph,
    *,
    revision: str | None = None,
    variant: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    allow_pickle: bool = False,
) -> Inspection:
    """Say what a preset, a folder, a repo, a single file or a bound graph holds: family and tasks, and each component.

    Reads JSON files and the headers of safetensors files, never a tensor; of a repo's weights, the headers alone are
    fetched. Raises `LoadError` where `x` is none of these. What is wrong inside is told in `missing`.
    """
    if isinstance(x, Graph):
        return _of_graph("graph", x)
    access = Access(token, cache_dir and str(cache_dir), local_files_only, allow_pickle=allow_pickle)
    embedded = is_embedded(x)
    if not embedded and (file := file_of(x, revision, access)) is not None:
        return _of_file(str(x), open_checkpoint(file, access), access)
    path = Path(x).expanduser()
    if path.is_file():
        found = _of_graph_file(str(x), path)
        return _with_code(found, Folder(path.absolute().parent), "") if path.name == GRAPH else found
    if not embedded and isinstance(x, str) and x in families and not path.is_dir():
        return _of_graph(x, load(x))
    root = find_root(x, revision, access)
    return _with_code(_of_root(str(x), root, subfolder, access, variant), root, subfolder)


def _of_root(source: str, root: Location, subfolder: str, access: Access, variant: str | None) -> Inspection:
    names = root.names(subfolder)
    if not any(name.endswith("model_index.json") for name in names):
        if GRAPH in names:
            if not read_form(file := root.local(subfolder, [GRAPH]) / GRAPH).auto_map:
                return _of_graph(source, saved_graph(root, subfolder, access, variant))
            return _of_graph_file(source, file, root, access)
        if CONFIG in names:
            return Inspection(source, str(root.local(subfolder, [CONFIG])), None, None, (), (), ())
        if has_files(names) or "config.json" in names:
            return _of_component(source, alone(root, subfolder).using(variant=variant).with_access(access))
    index = read_index(root, subfolder=subfolder)
    specs = {name: spec.with_access(access) for name, spec in index.components.items() if spec is not None}
    if variant is not None:
        specs |= with_variant({name: spec for name, spec in specs.items() if spec.loadable}, variant)
    return _of_index(source, index, specs)


def _with_code(found: Inspection, root: Location, subfolder: str) -> Inspection:
    """What was found, with the code that lies beside it."""
    try:
        code = code_in(root, subfolder)
    except LoadError as error:
        return replace(found, missing=(*found.missing, str(error)))
    return found if code is None else replace(found, code=listing(code))


def _of_graph_file(source: str, file: Path, root: Location | None = None, access: Access | None = None) -> Inspection:
    """A graph file. Where code of its own would have to run for its blocks, what it binds is told all the same."""
    form = read_form(file)
    if not form.auto_map:
        return _of_graph(source, Graph.load(file))
    entries = {n: None if e is None else e.model_dump(exclude_unset=True) for n, e in form.graph.components.items()}
    bound, problems = read_bindings(entries, "graph", file.parent, None)
    specs = {
        n: held.spec if root is None else at(root, held.spec) for n, held in bound.items() if isinstance(held, Handle)
    }
    parts = [_part(n, specs[n].with_access(access or Access()), used=True) if n in specs else _of_object(n, held)
             for n, held in bound.items() if held is not None]  # fmt: skip
    return Inspection(source, None, None, None, (), tuple(parts), (*map(str, problems), *_missing(parts)))


def _of_index(source: str, index: Index, specs: Mapping[str, ComponentSpec]) -> Inspection:
    """The components of an index, and what the tasks of its family would lack."""
    place = str(index.path)
    try:
        family = family_of(index)
    except LoadError as error:
        parts = tuple(_part(name, spec, used=True) for name, spec in specs.items())
        return Inspection(source, place, index.class_name, None, (), parts, (str(error), *_missing(parts)))
    needed, always = _needed(family, index, specs)
    parts = tuple(_part(name, spec, used=name in needed) for name, spec in specs.items())
    absent = [
        f"{name}: the index has none, and the tasks need a {kind}."
        for name, kind in needed.items() if name not in specs and name in always
    ]  # fmt: skip
    return Inspection(
        source, place, index.class_name, family.name, tuple(family.tasks), parts, (*absent, *_missing(parts))
    )


def _of_file(source: str, found: Checkpoint, access: Access) -> Inspection:
    """The models in a single file. Its scheduler and tokenizers are ours, and are not in it."""
    specs = {name: part_spec(found, name).with_access(access) for name in found.models()}
    if found.family:
        whole = index_of(found.file, access)
        told = _of_index(source, whole, {**whole.loadable, **specs})
        absent = tuple(line.replace("the index has none", "the file has none") for line in told.missing)
        return replace(told, folder=None, layout=found.describe(), missing=absent)
    parts = tuple(_part(name, spec, used=True) for name, spec in specs.items())
    return Inspection(source, None, None, None, (), parts, tuple(_missing(parts)), found.describe())


def _of_component(source: str, spec: ComponentSpec) -> Inspection:
    """One component without a pipeline around it."""
    with suppress(LoadError, UnknownName):  # what keeps it from loading is told below
        spec = spec.using(type_hint=hint_of(spec.type))
    root = spec.location
    place = f"{root.source}/{spec.subfolder}".rstrip("/")
    part = _part(PurePosixPath(place).name, spec, used=True)
    text = "one component, which sf.load_component gives"
    return Inspection(source, place, None, None, (), (part,), tuple(_missing([part])), text)


def _of_graph(source: str, graph: Graph) -> Inspection:
    """A graph's bindings; its tasks are those of the family that it was made for."""
    family, task = graph.preset or (None, None)
    tasks = tuple(families[family].tasks) if family is not None and family in families else (task,) if task else ()
    parts: list[InspectedComponent] = []
    absent: list[str] = []
    for name, needed in graph.components.items():
        held = graph.bindings.get(name)
        if isinstance(held, Handle):
            parts.append(_part(name, held.spec, used=True))
        elif held is not None:
            parts.append(_of_object(name, held))
        elif needed.required:
            absent.append(f"{name}: nothing is bound, and a {type_text(needed.type)} is needed.")
    return Inspection(source, None, None, family, tasks, tuple(parts), (*absent, *_missing(parts)))


def _needed(family: Family, index: Index, specs: Mapping[str, ComponentSpec]) -> tuple[dict[str, str], frozenset[str]]:
    """The components, with their classes, that some task cannot do without; and the names of those that all need."""
    made = [_made(family, task, index, specs) for task in family.tasks]
    each = [{name: type_text(part.type) for name, part in graph.components.items() if part.required} for graph in made]
    return {name: kind for kinds in each for name, kind in kinds.items()}, frozenset.intersection(*map(frozenset, each))


def _made(family: Family, task: str, index: Index, specs: Mapping[str, ComponentSpec]) -> Graph:
    """A task's graph for this checkpoint; where its configs cannot be read, for one that says nothing."""
    try:
        return family.make(task, specs, **index.config)
    except (LoadError, ConfigError):
        return family.make(task, {})


def _part(name: str, spec: ComponentSpec, *, used: bool) -> InspectedComponent:
    class_name = spec.type_hint[1] if spec.type_hint else "unknown"
    where = spec.pretrained_model_name_or_path or ("inline config" if spec.config is not None else "nowhere")
    source = "/".join(part for part in (where, spec.subfolder) if part)
    missing = load_problems(spec) if used else []
    counted, size = Counter[str](), 0
    try:
        counted, size = _weights(spec)
    except LoadError as error:
        missing = [*missing, *([str(error)] if used and str(error) not in missing else [])]
    dtypes = ", ".join(_DTYPES.get(dtype, dtype) for dtype, _ in counted.most_common())
    return InspectedComponent(name, class_name, source, dtypes, size, counted.total(), used, tuple(missing))


def _weights(spec: ComponentSpec) -> tuple[Counter[str], int]:
    """How many numbers of each dtype a component's weights have, and their bytes. LoadError for a damaged file."""
    counted, size = Counter[str](), 0
    if spec.pretrained_model_name_or_path is None:
        return counted, size
    if (file := spec.file) is not None:
        part = open_checkpoint(file, spec.access).part(spec.subfolder)
        if file.suffix == ".gguf":
            packed = [t for name, t in GGUFFile(file).tensors.items() if name.startswith(part.prefix)]
            for tensor in packed:
                counted[str(tensor.kind)] += prod(tensor.shape)
            return counted, sum(tensor.nbytes for tensor in packed)
        held = numbers([file], lambda name: name.startswith(part.prefix)) if file.suffix == ".safetensors" else {}
        return Counter(held), sum(count * _BYTES.get(dtype, 4) for dtype, count in held.items())
    root, sub = spec.location, spec.subfolder
    if not any(name.endswith(".safetensors") for name in root.names(sub)):
        return counted, size
    for name in weight_names_of(spec):
        size += root.size(sub, name) or 0
        if isinstance(root, Repo) and not root.has(sub, name):
            counted.update(root.numbers(sub, name))
        else:
            counted.update(numbers([root.local(sub, [name]) / name]))
    return counted, size


def numbers(files: Iterable[Path], wanted: Callable[[str], bool] = lambda name: True) -> dict[str, int]:
    """How many numbers of each dtype the tensors of these names have. LoadError for a file that is damaged."""
    counted: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                for key in reader.keys():  # noqa: SIM118  no mapping
                    if wanted(key):
                        tensor = reader.get_slice(key)
                        counted[tensor.get_dtype()] += prod(tensor.get_shape())
        except (SafetensorError, OSError) as error:
            raise LoadError(f"{file} is damaged or no safetensors file: {error}. Download it again.") from error
    return counted


def _of_object(name: str, held: Any) -> InspectedComponent:  # whatever is bound
    tensors = list(held.parameters()) if hasattr(held, "parameters") else []
    dtypes = Counter(str(t.dtype).removeprefix("torch.") for t in tensors)
    size, count = sum(t.nbytes for t in tensors), sum(t.numel() for t in tensors)
    return InspectedComponent(name, type(held).__name__, "an object", ", ".join(dtypes), size, count)


def _missing(parts: Iterable[InspectedComponent]) -> list[str]:
    return [f"{part.name}: {text}" for part in parts for text in part.missing]


def _row(part: InspectedComponent, folder: str | None) -> tuple[str, ...]:
    size = (_count(part.parameters), _size(part.bytes)) if part.parameters else ("-", "-")
    source = part.source.removeprefix(f"{folder}/") if folder else part.source
    told = source if part.used else f"{source} (no task uses it)"
    return part.name, part.class_name, part.dtype or "-", *size, told


def _count(number: int) -> str:
    for factor, unit in ((1e9, " B"), (1e6, " M"), (1e3, " K")):
        if number >= factor:
            return f"{number / factor:.2f}{unit}"
    return str(number)


def _size(number: int) -> str:
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"
