"""`sf.inspect`: what a preset or a folder holds, from its small files and the headers of its weights."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..components.loading.component import problems
from ..components.loading.index import read_index
from ..components.loading.weights import STEM, weight_files
from ..components.spec import ComponentSpec
from ..graph import Graph, Lazy, LoadError
from ..graph.types import say
from ..registry import presets as families
from .family import Family
from .load import EMBEDDED, family_of, load

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
        if self.folder:
            head.append(f"  folder      {self.folder}")
        if self.parameters:
            head.append(f"  size        {_count(self.parameters)} parameters, {_size(self.bytes)} on disk")
        table = [("component", "class", "dtype", "parameters", "size", "source")]
        table += [_row(part, self.folder) for part in self.components]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        lines = [*head, "", *(f"  {row.rstrip()}" for row in rows)] if self.components else head
        if self.missing:
            lines += ["", "  missing", *(f"    {line}" for line in self.missing)]
        return "\n".join(lines)


def inspect(x: str | Path | Graph) -> Inspection:
    """Say what a preset, a folder or a bound graph holds: family and tasks, and each component with its weights.

    Reads JSON files and the headers of safetensors files, never a tensor. Raises `LoadError` where `x` is neither a
    preset nor a folder with an index or a graph file. What is wrong inside is told in `missing`.
    """
    if isinstance(x, Graph):
        return _of_graph("graph", x)
    embedded = isinstance(x, str) and x.isidentifier() and (EMBEDDED / x).is_dir()
    folder = EMBEDDED / x if embedded else Path(x).expanduser()
    if not folder.is_dir() or not any(folder.glob("*model_index.json")):
        return _of_graph(str(x), Graph.load(folder) if folder.is_file() else load(x))
    index = read_index(folder)
    specs = {name: spec for name, spec in index.components.items() if spec is not None}
    try:
        family = family_of(index)
    except LoadError as error:
        parts = tuple(_part(name, spec, used=True) for name, spec in specs.items())
        return Inspection(str(x), str(index.path), index.class_name, None, (), parts, (str(error), *_missing(parts)))
    needed = _needed(family, specs)
    parts = tuple(_part(name, spec, used=name in needed) for name, spec in specs.items())
    absent = [
        f"{name}: the index has none, and the tasks need a {kind}."
        for name, kind in needed.items() if name not in specs
    ]  # fmt: skip
    return Inspection(
        str(x), str(index.path), index.class_name, family.name, tuple(family.tasks), parts, (*absent, *_missing(parts))
    )


def _of_graph(source: str, graph: Graph) -> Inspection:
    """A graph's bindings; its tasks are those of the family that it was made for."""
    family, task = graph.preset or (None, None)
    tasks = tuple(families[family].tasks) if family is not None and family in families else (task,) if task else ()
    parts: list[InspectedComponent] = []
    absent: list[str] = []
    for name, needed in graph.components.items():
        held = graph.bindings.get(name)
        spec = getattr(held, "spec", None)
        if isinstance(held, Lazy) and isinstance(spec, ComponentSpec):
            parts.append(_part(name, spec, used=True))
        elif held is not None:
            parts.append(_of_object(name, held))
        elif needed.required:
            absent.append(f"{name}: nothing is bound, and a {say(needed.type)} is needed.")
    return Inspection(source, None, None, family, tasks, tuple(parts), (*absent, *_missing(parts)))


def _needed(family: Family, components: Mapping[str, Any]) -> dict[str, str]:
    """The components that some task of the family cannot do without, and their classes."""
    made = [family.make(task, {}) for task in family.tasks]
    return {name: say(part.type) for graph in made for name, part in graph.components.items() if part.required}


def _part(name: str, spec: ComponentSpec, *, used: bool) -> InspectedComponent:
    library, class_name = spec.type_hint or ("", "unknown")
    where = "inline config" if spec.config is not None else spec.pretrained_model_name_or_path or "nowhere"
    source = "/".join(part for part in (where, spec.subfolder) if part)
    missing = problems(spec) if used else []
    weights: list[Path] = []
    try:
        folder = spec.folder if spec.config is None else None
        if folder is not None and any(folder.glob("*.safetensors")):
            stem = "model" if library == "transformers" else STEM
            weights = list(weight_files(folder, stem=stem, variant=spec.variant))
        counted = _headers(weights)
    except LoadError as error:
        counted = Counter[str]()
        missing = [*missing, *([str(error)] if used and str(error) not in missing else [])]
    dtypes = ", ".join(_DTYPES.get(dtype, dtype) for dtype, _ in counted.most_common())
    size = sum(file.stat().st_size for file in weights)
    return InspectedComponent(name, class_name, source, dtypes, size, counted.total(), used, tuple(missing))


def _headers(files: Iterable[Path]) -> Counter[str]:
    """How many numbers of each dtype the files hold. LoadError for a file that is damaged."""
    counted: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                for key in reader.keys():  # noqa: SIM118  no mapping
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
