"""Graphs and blocks that have code in the same folder, for users who trust it."""

import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ....graph.block import Block
from ....graph.errors import ConfigError, LoadError
from ....graph.files import load
from ....graph.files.code import class_files
from ....graph.files.forms import FILE_NAME, FileForm
from ....graph.files.inside import leads_out
from ....graph.files.reading import read_form
from ....graph.graph import Graph
from ....graph.wiring import RESERVED
from ....registry import find_block
from ....registry.log import LOG
from ...storage.location import Location
from .importing import import_blocks
from .reading import CONFIG, Code, read_code, read_config
from .trust import check, listing, trust_of

_LOCK = threading.Lock()


def load_graph(
    root: Location, subfolder: str = "", trust_remote_code: bool | str = False, allowed: Sequence[str | Path] = ()
) -> Graph:
    """The graph of a `graph.json`, with the blocks whose code is in the same folder.

    Without trust, blocks that this process has imported are used. Others are refused, and the error shows the code.
    Components may be in the folder of the file, and in the `allowed` folders.

    Raises:
        LoadError: code that is not trusted, or that cannot be imported.
        GraphFileError: the file does not describe a graph.
    """
    trust = trust_of(trust_remote_code)
    folder = root.local(subfolder, [FILE_NAME])
    form = read_form(folder / FILE_NAME)
    for adapter in form.graph.adapters:
        _fetch(root, subfolder, adapter.file)
    if not form.auto_map:
        return load(Graph, folder, allowed=allowed)
    if not trust.given and all(_known(name) for name in form.auto_map):
        for name in form.auto_map:
            _warn_if_changed(name, folder / FILE_NAME, _recorded(form))
        return load(Graph, folder, allowed=allowed)
    return load(Graph, folder, classes=_trusted(_of_graph(root, subfolder, form), trust_remote_code), allowed=allowed)


def _fetch(root: Location, subfolder: str, name: str) -> None:
    """Fetch the folder of an adapter's file, if it is inside the folder of the graph; its reader refuses others."""
    if not leads_out(name):
        place = str(PurePosixPath(subfolder, name).parent).removeprefix(".")
        root.local(place, [one for one in root.names(place) if one.endswith((".safetensors", ".json"))])


def custom_block(root: Location, subfolder: str = "", trust_remote_code: bool | str = False) -> Graph | None:
    """The block that a `modular_config.json` names, as a graph of one node.

    None if there is no such file, or if it names a file of diffusers, as presets of diffusers do. LoadError for code
    that is not trusted or cannot be imported, and for a block that needs values for its fields.
    """
    if (code := _of_config(root, subfolder)) is None:
        return None
    ((name, cls),) = _trusted(code, trust_remote_code).items()
    node = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().strip("_")
    node = "block" if node in RESERVED or not node else node
    try:
        return Graph({node: cls()})
    except ConfigError as error:
        missing = str(error).rstrip(".")
        raise LoadError(
            f"{code.named}: {name} needs values for its fields ({missing}). Give them defaults, or save a graph "
            "that holds the block: graph.save(folder)."
        ) from None


def code_in(root: Location, subfolder: str = "") -> Code | None:
    """The code of a folder or repo as text; None if it has none. Runs nothing. LoadError for unsafe or broken code."""
    if FILE_NAME not in root.names(subfolder):
        return _of_config(root, subfolder)
    form = read_form(root.local(subfolder, [FILE_NAME]) / FILE_NAME)
    return _of_graph(root, subfolder, form) if form.auto_map else None


def _of_graph(root: Location, subfolder: str, form: FileForm) -> Code:
    return read_code(root, subfolder, form.auto_map, form.requirements, _recorded(form))


def _recorded(form: FileForm) -> dict[str, str]:
    return {file: entry.sha256 for file, entry in form.code.items()}


def _of_config(root: Location, subfolder: str) -> Code | None:
    names = root.names(subfolder)
    if CONFIG not in names:
        return None
    has_index = any(n.endswith("model_index.json") for n in names)
    try:
        auto_map, requirements = read_config(root, subfolder)
    except LoadError:
        if has_index:
            return None
        raise
    (address,) = auto_map.values()
    if has_index and re.fullmatch(r"\w+\.\w+", address) and f"{address.partition('.')[0]}.py" not in names:
        return None
    return read_code(root, subfolder, auto_map, requirements)


def _trusted(code: Code, trust_remote_code: bool | str) -> Mapping[str, type[Block]]:
    """The block classes of the code. LoadError if it may not run."""
    trust = trust_of(trust_remote_code)
    by_hash = trust.given and not trust.isolated and trust.digest in (None, code.source.digest)
    if by_hash and (same := _imported_already(code)) is not None:
        return same
    with _LOCK:  # the record of a source is read and then written
        check(code, trust)
    where = ", in a separate process" if trust.isolated else ""
    LOG.info("%s: runs its own code, which is trusted%s.\n%s", code.named, where, listing(code, "run"))
    if trust.isolated:
        if os.name != "posix":
            raise LoadError(f"{code.named}: code runs in a separate process on Linux and macOS only.")
        from .isolated.blocks import isolated_blocks

        return isolated_blocks(code)
    return import_blocks(code)


def _known(name: str) -> type[Block] | None:
    found = find_block(name)
    return found if isinstance(found, type) and issubclass(found, Block) else None


def _imported_already(code: Code) -> dict[str, type[Block]] | None:
    """The classes, if this process has imported the same files already."""
    found: dict[str, type[Block]] = {}
    for name, address in code.auto_map.items():
        cls = _known(name)
        known = _source_and_address(cls)
        if cls is None or known is None or not known[0].items() <= code.source.sha256.items() or known[1] != address:
            return None
        found[name] = cls
    return found


def _source_and_address(cls: type[Block] | None) -> tuple[Mapping[str, str], str] | None:
    try:
        known = class_files(cls) if cls is not None else None
    except LoadError:
        return None
    return None if known is None else (known.origin.source.sha256, known.address)


def _warn_if_changed(name: str, file: Path, recorded: Mapping[str, str]) -> None:
    """Warn if the imported block differs from the saved one."""
    known = _source_and_address(_known(name))
    if recorded and known is not None and not known[0].items() <= recorded.items():
        LOG.warning("%s: the imported block %r is not the one that was saved with it.", file, name)
