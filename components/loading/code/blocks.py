"""Graphs and blocks whose code lies beside them, for those who trust it."""

import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from ....graph.block import Block
from ....graph.errors import LoadError
from ....graph.files import load
from ....graph.files.code import class_files
from ....graph.files.forms import FILE_NAME, FileForm
from ....graph.files.reading import read_form
from ....graph.graph import Graph
from ....graph.wiring import RESERVED
from ....registry import find_block
from ...storage.location import Location
from .importing import import_blocks
from .reading import CONFIG, Code, read_code, read_config
from .trust import check, listing, trust_of

_LOG = logging.getLogger("sfumato")
_LOCK = threading.Lock()


def load_graph(root: Location, subfolder: str = "", trust_remote_code: bool | str = False) -> Graph:
    """The graph of a `graph.json`, with the blocks whose code lies beside it.

    Without trust, blocks that are imported here already are taken, and if others are needed, it is refused: what would
    run is told. Raises `LoadError` and `GraphFileError`.
    """
    trust = trust_of(trust_remote_code)
    folder = root.local(subfolder, [FILE_NAME])
    form = read_form(folder / FILE_NAME)
    if not form.auto_map:
        return load(Graph, folder)
    if not trust.given and all(_known(name) for name in form.auto_map):
        for name in form.auto_map:
            _tell_of_another(name, folder / FILE_NAME, _recorded(form))
        return load(Graph, folder)
    return load(Graph, folder, classes=_trusted(_of_graph(root, subfolder, form), trust_remote_code))


def custom_block(root: Location, subfolder: str = "", trust_remote_code: bool | str = False) -> Graph | None:
    """The block that a repo's `modular_config.json` names, as a graph of one node; None where it names none that lies
    there: the config of a preset of diffusers names a file of diffusers."""
    if (code := _of_config(root, subfolder)) is None:
        return None
    ((name, cls),) = _trusted(code, trust_remote_code).items()
    node = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().strip("_")
    node = "block" if node in RESERVED or not node else node
    try:
        return Graph({node: cls()})
    except TypeError as error:
        raise LoadError(
            f"{code.named}: {name} cannot be made without its fields ({error}). Give them defaults, or save a graph "
            "that holds the block: graph.save(folder)."
        ) from None


def code_in(root: Location, subfolder: str = "") -> Code | None:
    """The code that a folder or repo brings, as text; nothing of it is run. Raises as the two above."""
    if FILE_NAME not in root.names(subfolder):
        return _of_config(root, subfolder)
    form = read_form(root.local(subfolder, [FILE_NAME]) / FILE_NAME)
    return _of_graph(root, subfolder, form) if form.auto_map else None


def _of_graph(root: Location, subfolder: str, form: FileForm) -> Code:
    return read_code(root, subfolder, form.auto_map, form.requirements, _recorded(form))


def _recorded(form: FileForm) -> dict[str, str]:
    return {file: said.sha256 for file, said in form.code.items()}


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
    """The classes, where the code may run."""
    trust = trust_of(trust_remote_code)
    asked = trust.given and not trust.isolated and trust.digest in (None, code.source.digest)
    if asked and (same := _same_here(code)) is not None:
        return same
    with _LOCK:  # what is known of a source is read, and then written
        check(code, trust)
    where = ", in a process of its own" if trust.isolated else ""
    _LOG.info("%s: runs code of its own, which is trusted%s.\n%s", code.named, where, listing(code, "run"))
    if trust.isolated:
        from .isolated import isolated_blocks

        return isolated_blocks(code)
    return import_blocks(code)


def _known(name: str) -> type[Block] | None:
    found = find_block(name)
    return found if isinstance(found, type) and issubclass(found, Block) else None


def _same_here(code: Code) -> dict[str, type[Block]] | None:
    """The classes where the very same files are imported here already, by whoever wrote them."""
    found: dict[str, type[Block]] = {}
    for name, address in code.auto_map.items():
        cls = _known(name)
        home = _home(cls)
        if cls is None or home is None or not home[0].items() <= code.source.sha256.items() or home[1] != address:
            return None
        found[name] = cls
    return found


def _home(cls: type[Block] | None) -> tuple[Mapping[str, str], str] | None:
    try:
        home = class_files(cls) if cls is not None else None
    except LoadError:
        return None
    return None if home is None else (home.origin.source.sha256, home.address)


def _tell_of_another(name: str, file: Path, recorded: Mapping[str, str]) -> None:
    """Say so when the block that is imported here is not the one that was saved."""
    home = _home(_known(name))
    if recorded and home is not None and not home[0].items() <= recorded.items():
        _LOG.warning("%s: the block %r that is imported here is not the one that was saved with it.", file, name)
