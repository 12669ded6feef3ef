"""The index of a pipeline folder: `modular_model_index.json` and the classic `model_index.json`, read and written.

Where a folder has both, the modular file is read: its entries say all that the classic ones say, and more (another
repo, a revision, a variant), and it is the newer format. `read_index(folder, "model_index.json")` asks for the other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import JsonValue

from ...graph.errors import ConfigError, LoadError
from ...registry import UnknownName, did_you_mean
from ..spec import PUBLISHED, ComponentSpec
from ..storage.files import find_folder, has_files, read_json, write_json
from ..storage.hub import Repo, is_repo
from ..storage.location import Folder, Location

CLASSIC = "model_index.json"
MODULAR = "modular_model_index.json"

FORMAT_VERSION = "0.42.1"
"""The diffusers version whose file format this is; written as `_diffusers_version`, which its readers expect."""

_MANY = {
    "FluxMultiControlNetModel": "FluxControlNetModel",
    "MultiAdapter": "T2IAdapter",
    "MultiControlNetModel": "ControlNetModel",
    "MultiControlNetUnionModel": "ControlNetUnionModel",
    "SD3MultiControlNetModel": "SD3ControlNetModel",
}
"""Published classes that hold many models of one class, each saved in a folder of its own."""

IndexFile = Literal["modular_model_index.json", "model_index.json"]


@dataclass(frozen=True)
class Index:
    """What an index file says. `components` has None for a published null, and a spec without a path for a component
    whose class is known but which was not there when the folder was saved. `config` holds the plain keys.
    """

    path: str | Path
    """The folder or repo."""
    class_name: str | None
    blocks_class_name: str | None = None
    components: Mapping[str, ComponentSpec | None] = field(default_factory=dict[str, ComponentSpec | None])
    config: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    @property
    def loadable(self) -> dict[str, ComponentSpec]:
        """The components that say where they come from."""
        return {name: spec for name, spec in self.components.items() if spec is not None and spec.loadable}

    def spec(self, name: str) -> ComponentSpec:
        """The component called `name`. UnknownName where there is none, LoadError where it is null."""
        if name not in self.components:
            raise UnknownName(f"{self.path}: no component {name!r}. {did_you_mean(name, self.components)}")
        found = self.components[name]
        if found is None or not found.loadable:
            raise LoadError(
                f"{self.path}: {name} is null, so the folder brings none. Bind an object or a spec instead."
            )
        return found

    def check(self, *names: str) -> None:
        """Look up the classes of these components (all loadable ones if none is named); LoadError lists every miss.

        Reading does not do this, since published folders name classes that a graph may never ask for
        (`["stable_diffusion", "StableDiffusionSafetyChecker"]`).
        """
        problems: list[str] = []
        for name in names or self.loadable:
            try:
                _ = self.spec(name).type
            except (LoadError, UnknownName) as error:
                problems.append(f"{name}: {error}")
        _raise(self.path, problems)


def read_index(folder: str | Path | Location, file: IndexFile | None = None, subfolder: str = "") -> Index:
    """The index of a local folder or of a repo, or of a folder inside.

    A component whose files lie in the folder is loaded from there, wherever its entry points to, so a folder that was
    moved or downloaded still works. Raises LoadError with every problem: the key, what came, what was wanted.
    """
    root = folder if isinstance(folder, Repo) else Folder(_plain(folder).absolute())
    names = root.names(subfolder)
    if isinstance(root, Folder) and not (root.path / subfolder).is_dir():
        beside = ", ".join(sorted(p.name for p in root.path.iterdir() if p.is_dir())) or "no folder"
        raise LoadError(f"{root.path / subfolder}: there is no such folder. {root.path} has: {beside}.")
    if file is None:
        file = next((name for name in (MODULAR, CLASSIC) if name in names), None)
        if file is None:
            seen = ", ".join(sorted(_beside(root, subfolder))[:12]) or "nothing"
            raise LoadError(
                f"{_place(root, subfolder)}: no {MODULAR} and no {CLASSIC}. It has: {seen}. Give a pipeline's folder "
                "or repo, or load one component: sf.load_component(folder)."
            )
    data = read_json(root.local(subfolder, [file]) / file)
    reading = _Reading(root, subfolder)
    return reading.modular(data) if file == MODULAR else reading.classic(data)


def _plain(folder: "str | Path | Folder") -> Path:
    return folder.path if isinstance(folder, Folder) else find_folder(str(folder))


def _beside(root: Location, subfolder: str) -> Iterable[str]:
    if isinstance(root, Repo):
        return root.names(subfolder)
    place = root.path / subfolder
    return (p.name for p in place.iterdir()) if place.is_dir() else ()


def _place(root: Location, subfolder: str) -> str | Path:
    if isinstance(root, Folder):
        return root.path / subfolder
    return f"{root.source}/{subfolder}".rstrip("/")


class _Reading:
    """One reading of an index; problems are gathered."""

    def __init__(self, root: Location, subfolder: str) -> None:
        self.location, self.subfolder = root, subfolder
        self.place = _place(root, subfolder)
        self.components: dict[str, ComponentSpec | None] = {}
        self.config: dict[str, JsonValue] = {}
        self.problems: list[str] = []

    def classic(self, data: Mapping[str, JsonValue]) -> Index:
        for name, value in data.items():
            if name.startswith("_"):
                continue
            match value:
                case [None, None]:
                    self.components[name] = None
                case [str() as library, str() as class_name]:
                    for each in self.several(name, class_name):
                        self.add(each, {"type_hint": [library, _MANY.get(class_name, class_name)], "subfolder": each})
                case [str() | None, str() | None]:
                    self.problems.append(f"{name}: came {value!r}, wanted [library, class] or [null, null].")
                case _:
                    self.config[name] = value
        _raise(_file(self.place, CLASSIC), self.problems)
        return Index(self.place, _name(data, "_class_name"), None, self.components, self.config)

    def several(self, name: str, class_name: str) -> Iterator[str]:
        """The component's name; of a class that holds many, those that lie beside it too: `controlnet_1` and so on."""
        yield name
        numbered = (f"{name}_{i}" for i in count(1)) if class_name in _MANY else ()
        yield from takewhile(lambda each: self.location.names(str(PurePosixPath(self.subfolder, each))), numbered)

    def modular(self, data: Mapping[str, JsonValue]) -> Index:
        for name, value in data.items():
            if name.startswith("_"):
                continue
            match value:
                case [_, _, dict() as entry]:
                    # Only the third element rules: the first two tell what was loaded when the folder was saved.
                    self.add(name, entry)
                case [None, None, None]:
                    self.components[name] = None
                case [str() | None, str() | None, _]:
                    self.problems.append(
                        f"{name}: came {value[2]!r} as the third element, wanted a loading spec of keys."
                    )
                case [str() | None, str() | None]:
                    pass  # a classic entry; the published reader ignores it in this file, and so must we
                case _:
                    self.config[name] = value
        _raise(_file(self.place, MODULAR), self.problems)
        blocks = _name(data, "_blocks_class_name")
        return Index(self.place, _name(data, "_class_name"), blocks, self.components, self.config)

    def add(self, name: str, entry: Mapping[str, JsonValue]) -> None:
        """Make the spec of one entry. Keys of a later version are left out, as the published reader does."""
        known = {key: value for key, value in entry.items() if key in (*PUBLISHED, "repo", "dtype")}
        try:
            spec = ComponentSpec.from_json(known)
        except ConfigError as error:
            self.problems.append(f"{name}: {error}")
            return
        classic = "pretrained_model_name_or_path" not in entry and "repo" not in entry
        inside = str(PurePosixPath(self.subfolder, spec.subfolder)) if self.subfolder else spec.subfolder
        if classic or has_files(self.location.names(inside)):
            # The revision named a state of the repo; the copy that lies here is what it is.
            spec = spec.using(
                pretrained_model_name_or_path=self.location.source, revision=self.location.revision, subfolder=inside
            )
        elif isinstance(self.location, Repo) and (path := spec.pretrained_model_name_or_path) and not is_repo(path):
            # The disk of whoever wrote this file is none of ours: a path of that name here would be another's.
            spec = spec.using(pretrained_model_name_or_path=None)
        self.components[name] = None if spec == ComponentSpec() else spec


def _file(place: str | Path, name: str) -> str | Path:
    return place / name if isinstance(place, Path) else f"{place}/{name}"


def _name(data: Mapping[str, JsonValue], key: str) -> str | None:
    value = data.get(key)
    return value if isinstance(value, str) else None


def _raise(file: str | Path, problems: list[str]) -> None:
    if len(problems) == 1:
        raise LoadError(f"{file}: {problems[0]}")
    if problems:
        rows = "\n".join(f"  {problem}" for problem in problems)
        raise LoadError(f"{file}: ({len(problems)} problems)\n{rows}")


def write_modular_index(
    folder: str | Path,
    specs: Mapping[str, ComponentSpec | None],
    class_name: str = "ModularPipeline",
    blocks_class_name: str | None = None,
    config: Mapping[str, JsonValue] | None = None,
) -> Path:
    """Write `modular_model_index.json` in the published form, whole or not at all. Returns the file.

    The published form has no place for a dtype (it is not written) nor for an inline config (LoadError: save that
    component to a subfolder first, or keep it in graph.json).
    """
    file = Path(folder) / MODULAR
    data: dict[str, JsonValue] = {"_class_name": class_name, "_diffusers_version": FORMAT_VERSION}
    if blocks_class_name is not None:
        data["_blocks_class_name"] = blocks_class_name
    problems: list[str] = []
    for name in {*specs, *(config or {})}:
        if name.startswith("_"):
            problems.append(f"{name}: names with a leading underscore are metadata of the file. Choose another.")
        if name in specs and name in (config or {}):
            problems.append(f"{name}: both a component and a config key. Rename one.")
    for name, spec in specs.items():
        if spec is not None and spec.config is not None:
            problems.append(f"{name}: has its config inline, which this file has no place for. Save it to a subfolder.")
        data[name] = _entry(spec or ComponentSpec())
    _raise(file, sorted(problems))
    write_json(file, {**data, **(config or {})})
    return file


def _entry(spec: ComponentSpec) -> JsonValue:
    published = spec.to_json()
    loading: dict[str, JsonValue] = {key: published[key] for key in PUBLISHED}
    first, second = (spec.type_hint or (None, None)) if spec.loadable else (None, None)
    return [first, second, loading]
