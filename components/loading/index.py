"""Read and write the index of a pipeline: `modular_model_index.json`, or the older `model_index.json`.

A folder with both is read by the modular file: it is the newer format, and its entries can also name another repo, a
revision and a variant. `read_index(folder, "model_index.json")` reads the older one.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import JsonValue

from ...graph.errors import ConfigError, LoadError
from ...graph.files.inside import leads_out
from ...graph.limits import AboveLimit, check_limit
from ...registry import UnknownName, did_you_mean
from ..spec import PUBLISHED, ComponentSpec
from ..storage.files import find_folder, has_files, read_json, write_json
from ..storage.hub import Repo, is_repo
from ..storage.location import Folder, Location, source_in_file

CLASSIC = "model_index.json"
MODULAR = "modular_model_index.json"

FORMAT_VERSION = "0.42.1"
"""The diffusers version that has this file format. Readers expect it as `_diffusers_version`."""

_MULTI_MODELS = {
    "FluxMultiControlNetModel": "FluxControlNetModel",
    "MultiAdapter": "T2IAdapter",
    "MultiControlNetModel": "ControlNetModel",
    "MultiControlNetUnionModel": "ControlNetUnionModel",
    "SD3MultiControlNetModel": "SD3ControlNetModel",
}
"""Published classes of several models, and the class of each model. Each model has its own folder."""

IndexFile = Literal["modular_model_index.json", "model_index.json"]


@dataclass(frozen=True)
class Index:
    """The content of an index file."""

    path: str | Path
    """The folder or repo; the file, for the index of a single file."""
    class_name: str | None
    """The pipeline class."""
    blocks_class_name: str | None = None
    """The class of the pipeline's blocks, in a modular file."""
    components: Mapping[str, ComponentSpec | None] = field(default_factory=dict[str, ComponentSpec | None])
    """By name. None for a published null; a spec without a path if only the class is known."""
    config: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """The keys that are not components."""

    @property
    def loadable(self) -> dict[str, ComponentSpec]:
        """The components that have a path or an inline config."""
        return {name: spec for name, spec in self.components.items() if spec is not None and spec.loadable}

    def spec(self, name: str) -> ComponentSpec:
        """The component of a name. UnknownName if the index has none, LoadError if it is null."""
        if name not in self.components:
            raise UnknownName(f"{self.path}: no component {name!r}. {did_you_mean(name, self.components)}")
        spec = self.components[name]
        if spec is None or not spec.loadable:
            raise LoadError(f"{self.path}: {name} is null, so the folder has none. Bind an object or a spec.")
        return spec

    def check(self, *names: str) -> None:
        """Look up the classes of these components; by default all loadable ones. LoadError lists the missing classes.

        `read_index` does not do this: published folders name classes that a graph may never need
        (`["stable_diffusion", "StableDiffusionSafetyChecker"]`).
        """
        problems: list[str] = []
        for name in names or self.loadable:
            try:
                _ = self.spec(name).type
            except (LoadError, UnknownName) as error:
                problems.append(f"{name}: {error}")
        _raise(self.path, problems)


def read_index(
    folder: str | Path | Location,
    file: IndexFile | None = None,
    subfolder: str = "",
    allowed: Sequence[str | Path] = (),
) -> Index:
    """Read the index of a folder or repo.

    A component whose files are in the folder is loaded from there, even if its entry names another place. So a folder
    that was moved or downloaded still works.

    Args:
        folder: a local folder or a repo.
        file: which of the two files; by default the modular one if it exists.
        subfolder: the folder in it that has the index.
        allowed: folders of this machine that the index may name beside its own.

    Raises:
        LoadError: no such folder or file, or entries that cannot be read, all of them.
    """
    location = folder if isinstance(folder, Repo) else Folder(_path(folder).absolute())
    names = location.names(subfolder)
    if isinstance(location, Folder) and not (location.path / subfolder).is_dir():
        folders = ", ".join(sorted(p.name for p in location.path.iterdir() if p.is_dir())) or "no folder"
        raise LoadError(f"{location.path / subfolder}: there is no such folder. {location.path} has: {folders}.")
    if file is None:
        file = next((name for name in (MODULAR, CLASSIC) if name in names), None)
        if file is None:
            files = ", ".join(sorted(_file_names(location, subfolder))[:12]) or "nothing"
            single = sorted(n for n in names if n.endswith((".safetensors", ".gguf")) and "diffusion_pytorch" not in n)
            way = f", or one file: sf.load('{_place(location, subfolder)}/{single[0]}')" if single else ""
            raise LoadError(
                f"{_place(location, subfolder)}: no {MODULAR} and no {CLASSIC}. It has: {files}. Pass a pipeline's "
                f"folder or repo, or load one component: sf.load_component(folder){way}."
            )
    data = read_json(path := location.local(subfolder, [file]) / file)
    try:
        check_limit("name_letters", max(map(len, data), default=0))
    except AboveLimit as error:
        raise LoadError(f"{path}: {error}") from None
    reading = _Reading(location, subfolder, allowed)
    return reading.modular(data) if file == MODULAR else reading.classic(data)


def _path(folder: "str | Path | Folder") -> Path:
    return folder.path if isinstance(folder, Folder) else find_folder(str(folder))


def _file_names(location: Location, subfolder: str) -> Iterable[str]:
    if isinstance(location, Repo):
        return location.names(subfolder)
    place = location.path / subfolder
    return (p.name for p in place.iterdir()) if place.is_dir() else ()


def _place(location: Location, subfolder: str) -> str | Path:
    if isinstance(location, Folder):
        return location.path / subfolder
    return f"{location.source}/{subfolder}".rstrip("/")


class _Reading:
    """Reads one index and collects its problems."""

    def __init__(self, location: Location, subfolder: str, allowed: Sequence[str | Path]) -> None:
        self.location, self.subfolder, self.allowed = location, subfolder, allowed
        self.place = _place(location, subfolder)
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
                    hint: JsonValue = [library, _MULTI_MODELS.get(class_name, class_name)]
                    for each in self.numbered_names(name, class_name):
                        self.add(each, {"type_hint": hint, "subfolder": each})
                case [str() | None, str() | None]:
                    self.problems.append(f"{name}: needs [library, class] or [null, null], got {value!r}.")
                case _:
                    self.config[name] = value
        _raise(_file(self.place, CLASSIC), self.problems)
        return Index(self.place, _name(data, "_class_name"), None, self.components, self.config)

    def numbered_names(self, name: str, class_name: str) -> Iterator[str]:
        """The component's name; for a class of several models also the further folders: `controlnet_1` and so on."""
        yield name
        numbered = (f"{name}_{i}" for i in count(1)) if class_name in _MULTI_MODELS else ()
        yield from takewhile(lambda each: self.location.names(str(PurePosixPath(self.subfolder, each))), numbered)

    def modular(self, data: Mapping[str, JsonValue]) -> Index:
        for name, value in data.items():
            if name.startswith("_"):
                continue
            match value:
                case [library, class_name, dict() as entry]:
                    # The third element counts: the first two record what was loaded when the folder was saved. Some
                    # writers leave the class out of the third.
                    if entry.get("type_hint") in (None, [None, None]) and isinstance(class_name, str):
                        entry = {**entry, "type_hint": [library, class_name]}
                    self.add(name, entry)
                case [None, None, None]:
                    self.components[name] = None
                case [str() | None, str() | None, _]:
                    self.problems.append(
                        f"{name}: needs a loading spec (an object) as the third element, got {value[2]!r}."
                    )
                case [None, None]:
                    self.components[name] = None
                case [str() as library, str() as class_name]:  # an entry of the older file
                    self.add(name, {"type_hint": [library, class_name], "subfolder": name})
                case [str() | None, str() | None]:
                    self.problems.append(f"{name}: needs [library, class] or [null, null], got {value!r}.")
                case _:
                    self.config[name] = value
        _raise(_file(self.place, MODULAR), self.problems)
        blocks = _name(data, "_blocks_class_name")
        return Index(self.place, _name(data, "_class_name"), blocks, self.components, self.config)

    def add(self, name: str, entry: Mapping[str, JsonValue]) -> None:
        """Add the spec of one entry. Keys of later versions are ignored, as by the published reader."""
        known = {key: value for key, value in entry.items() if key in (*PUBLISHED, "dtype")}
        path = known.pop("pretrained_model_name_or_path", None) or entry.get("repo")
        try:
            spec = ComponentSpec.from_json(known)
            has_no_path = "pretrained_model_name_or_path" not in entry and "repo" not in entry
            folder = str(PurePosixPath(self.subfolder, spec.subfolder)) if self.subfolder else spec.subfolder
            if has_no_path or has_files(self.location.names(folder)):
                # The entry's revision is that of a repo; the files of this folder have their own.
                own = {"revision": self.location.revision, "subfolder": folder}
                spec = spec.using(pretrained_model_name_or_path=self.location.source, **own)
            elif path is not None:
                data = {**known, "pretrained_model_name_or_path": self.source(path)}
                spec = ComponentSpec.from_json(data, of_file=True)
        except (ConfigError, LoadError) as error:
            self.problems.append(f"{name}: {error}")
            return
        if spec.type_hint is None and spec.pretrained_model_name_or_path == self.location.source:
            with suppress(LoadError):  # what it lacks is reported when the component is needed
                spec = spec.using(type_hint=spec.own_hint())
        self.components[name] = None if spec == ComponentSpec() else spec

    def source(self, path: JsonValue) -> JsonValue:
        """The repo or folder that an entry names, or the name as it is if there is none. None for a path of the machine
        that wrote the index.

        LoadError for a path of this machine that leads out of the index's folder.
        """
        if not isinstance(path, str) or is_repo(path):
            return path
        if isinstance(self.location, Repo):  # the same path on this machine is something else
            return None
        exists = os.path.lexists(os.path.join(self.place, path))
        if not exists:
            return None if leads_out(path) else path
        return source_in_file(path, Path(self.place), self.allowed)


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
    """Write `modular_model_index.json` in the published form, whole or not at all.

    The published form has no entry for a dtype, which is not written.

    Args:
        folder: where to write.
        specs: the components by name; None is written as null.
        class_name: the pipeline class.
        blocks_class_name: the class of its blocks.
        config: further keys.

    Returns:
        The file.

    Raises:
        LoadError: a name that is used twice or begins with "_", or an inline config, which the form cannot have.
    """
    file = Path(folder) / MODULAR
    data: dict[str, JsonValue] = {"_class_name": class_name, "_diffusers_version": FORMAT_VERSION}
    if blocks_class_name is not None:
        data["_blocks_class_name"] = blocks_class_name
    problems: list[str] = []
    for name in {*specs, *(config or {})}:
        if name.startswith("_"):
            problems.append(f"{name}: names with a leading underscore are metadata of the file. Choose another name.")
        if name in specs and name in (config or {}):
            problems.append(f"{name}: both a component and a config key. Rename one.")
    for name, spec in specs.items():
        if spec is not None and spec.config is not None:
            problems.append(f"{name}: has its config inline, which this file cannot have. Save it to a subfolder.")
        data[name] = _entry(spec or ComponentSpec())
    _raise(file, sorted(problems))
    write_json(file, {**data, **(config or {})})
    return file


def _entry(spec: ComponentSpec) -> JsonValue:
    published = spec.to_json()
    loading: dict[str, JsonValue] = {key: published[key] for key in PUBLISHED}
    first, second = (spec.type_hint or (None, None)) if spec.loadable else (None, None)
    return [first, second, loading]
