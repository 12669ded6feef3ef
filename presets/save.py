"""A pipeline as a folder that others load: components, published index files, the graph and a card."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import JsonValue

from ..components.handle import Handle
from ..components.loading.component import fetch
from ..components.loading.component_files import small_files_of
from ..components.loading.copying import files_to_copy
from ..components.loading.index import CLASSIC, FORMAT_VERSION, MODULAR, read_index, write_modular_index
from ..components.loading.single_file.checkpoint import index_of
from ..components.manager import ComponentsManager
from ..components.spec import ComponentSpec
from ..components.storage.files import has_files, write_json, write_text
from ..graph import Graph, Lazy, LoadError, SaveError
from ..graph.files import writing as graph_file
from ..graph.files.forms import FILE_NAME
from ..graph.saving import Draft, saving_folder
from ..registry import hint_of
from ..registry import presets as families
from .card import DRAWING, card
from .keywords import checked_keywords

_TASKS = {"image2image": "Img2Img", "inpaint": "Inpaint"}


@checked_keywords
def save_pretrained(graph: Graph, folder: str | Path, *, repo: str | None = None, license: str | None = None) -> Path:
    """Write a bound graph as a folder: a subfolder for each component, `modular_model_index.json`, `model_index.json`,
    `graph.json` with the source of your own blocks, a drawing and a card. Gives the folder.

    Files of components are copied as they are, dtype and variant included; what is held as an object is written.
    `repo` is the name under which the folder will stand on the Hub; the index names it.

    All files are saved together or none: after a failure the folder is unchanged (`saving_folder`). Weights and configs
    of an earlier save in the same places go; other files stay, and so does a README.md that is not ours.

    Raises:
        SaveError: components that are not bound, or of classes that no file can name, and blocks whose source cannot be
            given to others; all of them. A folder that cannot be written.
        LoadError: a component whose files cannot be read.
    """
    place = Path(folder)
    graph = graph.with_bindings({n: value for n, value in graph.bindings.items() if n in graph.components})
    _check(graph, place)
    with saving_folder(place) as draft:
        _write(graph, draft, repo or place.absolute().name, license)
    return place


def _write(graph: Graph, draft: Draft, name: str, license: str | None) -> None:
    """Write all files of a pipeline. `name` is the repo or folder that its index names."""
    keys = index_keys(graph)
    specs = {n: _written(value, draft, n) for n, value in graph.bindings.items() if value is not None}
    for component in specs:
        for old in (draft.folder / component).glob("*"):
            if old.is_file() and has_files([old.name]):  # the component's reader could take it for one of the new files
                draft.remove(f"{component}/{old.name}")
    manager = ComponentsManager()
    graph = graph.bind({n: manager.handle(spec) for n, spec in specs.items()})
    code = graph_file.write(graph, draft, str(draft.folder / FILE_NAME))
    write_text(draft.path / DRAWING, graph.show("svg"))
    readme = draft.folder / "README.md"
    ours = "library_name: sfumato"
    if not readme.is_file() or ours in readme.read_text(encoding="utf-8", errors="replace"):
        write_text(draft.path / readme.name, card(graph, name, specs, license, code))
    for index in (CLASSIC, MODULAR):
        draft.remove(index)
    named = {n: spec.model_copy(update={"pretrained_model_name_or_path": name}) for n, spec in specs.items()}
    _indexes(graph, draft.path, named, keys)


def _check(graph: Graph, place: Path) -> None:
    absent = [n for n, part in graph.components.items() if part.required and graph.bindings.get(n) is None]
    lacking = [f"{name}: nothing is bound." for name in absent]
    for name, value in graph.bindings.items():
        if not isinstance(value, Lazy) and value is not None and hint_of(type(value)) is None:
            lacking.append(f"{name}: is a {type(value).__name__}, which no file can name. Bind a published class.")
        elif not name.isidentifier():
            lacking.append(f"{name}: is no plain folder name. Rename the component.")
    lacking += graph_file.blocks_without_source(graph)
    if lacking:
        raise SaveError("\n  ".join([f"{place}: cannot be written ({len(lacking)} problems)", *lacking]))


def _written(value: Any, draft: Draft, name: str) -> ComponentSpec:  # whatever is bound
    """Write one component into the draft; gives its spec there."""
    spec = value.spec if isinstance(value, Handle) else None
    target = draft.path / name
    if spec is not None and _is_plain_files(spec):
        _copy(spec, target, draft.folder / name)
        hint, variant, dtype = spec.type_hint, spec.variant, spec.dtype
    else:
        held = value.load() if isinstance(value, Lazy) else value
        hint, variant = hint_of(type(held)) or (spec.type_hint if spec else None), None
        dtype = str(held.dtype).removeprefix("torch.") if hasattr(held, "dtype") else None
        target.mkdir()
        held.save_pretrained(target)
    return ComponentSpec(
        type_hint=hint, pretrained_model_name_or_path=str(draft.path), subfolder=name, variant=variant, dtype=dtype
    )


def _is_plain_files(spec: ComponentSpec) -> bool:
    """Whether a component equals its files: no part of a single file, no config or quantization of its own."""
    plain = spec.config is None and spec.quantization is None and spec.file is None
    plain = plain and small_files_of(spec.type) is not None  # else its class alone knows its files
    return plain and spec.pretrained_model_name_or_path is not None and not spec.access.allow_pickle


def _copy(spec: ComponentSpec, target: Path, final: Path) -> None:
    """Copy the files of a component. Those that are in their place already are linked."""
    source, names = fetch(spec), files_to_copy(spec)
    in_place = final.is_dir() and final.samefile(source)
    target.mkdir()
    for name in sorted(names):
        file = spec.location.local(spec.subfolder, [name]) / name
        if in_place and not file.is_symlink():
            with suppress(OSError):
                os.link(file, target / name)
                continue
        shutil.copyfile(file, target / name)


def _indexes(graph: Graph, place: Path, specs: Mapping[str, ComponentSpec], keys: Mapping[str, JsonValue]) -> None:
    """Both published indexes; the modular one last."""
    family = families[graph.preset[0]] if graph.preset and graph.preset[0] in families else None
    classes: tuple[str, ...] = family.classes if family else ()
    modular = next((name for name in classes if name.endswith("ModularPipeline")), "ModularPipeline")
    if classes and graph.preset:
        plain = classes[0]
        asked = plain.replace("Pipeline", f"{_TASKS.get(graph.preset[1], '')}Pipeline")
        entries: dict[str, JsonValue] = {n: list(spec.type_hint or (None, None)) for n, spec in specs.items()}
        head = {"_class_name": asked if asked in classes else plain, "_diffusers_version": FORMAT_VERSION}
        write_json(place / CLASSIC, {**head, **entries, **keys})
    blocks = modular.replace("ModularPipeline", "AutoBlocks") if modular != "ModularPipeline" else None
    write_modular_index(place, dict(specs), modular, blocks, keys)


def index_keys(graph: Graph) -> Mapping[str, JsonValue]:
    """The plain keys of the index that the components came with: our graph has them in its blocks, others read them."""
    for value in graph.bindings.values():
        if not isinstance(value, Handle) or (spec := value.spec).pretrained_model_name_or_path is None:
            continue
        if spec.file is not None:
            with suppress(LoadError):
                return index_of(spec.file, spec.access).config
            continue
        for parent in PurePosixPath(spec.subfolder).parents:
            with suppress(LoadError):
                folder = "" if parent == PurePosixPath() else str(parent)
                return read_index(spec.location, subfolder=folder, allowed=spec.access.folders).config
    return {}
