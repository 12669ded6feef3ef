"""Requests: the cells of a row as the values of a call, its seed, and the key of its pictures."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from ...components.adapters.adapter import Adapter
from ...components.pictures import open_picture
from ...graph import ConfigError, Graph, InputError, LoadError, Problem, Run
from ...graph.analysis import sole_makers
from ...graph.call import drawn_inputs, prepare, settle, unknown_names
from ...graph.files.inside import path_inside
from ...graph.keywords import ADAPTERS, ATTENTION, Call
from ...graph.memo.code import digest
from ...graph.memo.contents import content_key
from ...graph.memo.library_values import NoContentKey
from ...graph.memo.node_keys import outputs_key
from ...graph.own_components import own_components
from ...graph.run_order import run_order
from ...graph.structure import Structure
from ...graph.swaps import overlay
from ...registry import did_you_mean, printable
from ...registry.text import shortened
from ..adapter import load_adapter, numbered, split_strength
from ..records.inputs import to_json
from ..records.keys import json_key
from ..swaps import is_path, swap_from_text
from ..values import parsed, takes_picture
from .table import Cells, Row, Table

OUTPUT = "images"
"""The output whose pictures a batch writes."""
_DISTINCT = 256
"""So many values of a slot's column are looked at, to find the inputs that they bring."""


@dataclass(frozen=True)
class Request:
    """A row that can run. key: of its pictures. run: not started."""

    number: int
    key: str
    seed: int | None
    run: Run


@dataclass(frozen=True)
class Reader:
    """Makes requests of the rows of a table.

    values: the values of all rows, where a row has no cell. keep: the columns for the manifest alone. folders: which
    paths in cells may lead to, beside the folder of the table. written: what the key includes beside the run: how its
    files are written.
    """

    pipe: Graph
    table: Table
    values: Mapping[str, Any]
    keep: Collection[str] = ()
    folders: Sequence[str | Path] = ()
    written: Sequence[str] = ()

    def check(self) -> None:
        """Check the columns, before anything runs.

        Raises:
            InputError: columns that no input, slot or component of the graph has, or values that it does not have.
        """
        graph = overlay(self.pipe, self._swaps(self.values))
        swapped = *graph.slots, *graph.components, *own_components(graph)
        known = {*graph.inputs, *swapped, *sole_makers(graph), ADAPTERS, ATTENTION}
        columns = self.table.columns
        problems = [
            Problem("unknown", name, f"is no column of {self.table.title}. {did_you_mean(name, columns)}", name)
            for name in self.keep if name not in columns
        ]  # fmt: skip
        if OUTPUT not in graph.outputs:
            text = f"is no output of the graph, and a batch writes its pictures. It has: {', '.join(graph.outputs)}."
            problems.append(Problem("output", OUTPUT, text))
        unknown = [name for name in columns if name not in known and name not in self.keep]
        unknown += [name for name in self.values if name not in known]
        if unknown and (slots := [name for name in columns if name in graph.slots]):
            known |= self._brought_by(slots)
            unknown = [name for name in unknown if name not in known]
        if unknown:
            found = unknown_names(graph, Call.of(graph, (), dict.fromkeys(unknown)))
            way = f" If it is for the manifest alone, name it: keep=[{unknown[0]!r}], or --keep {unknown[0]}."
            problems += [
                Problem(one.code, one.place, one.message + (way if one.place in columns else ""), one.got,
                        one.needed, one.candidates)
                for one in found
            ]  # fmt: skip
        if problems:
            raise InputError(problems)

    def _swaps(self, values: Mapping[str, Any]) -> dict[str, Any]:
        known = {*self.pipe.slots, *self.pipe.components, *own_components(self.pipe)}
        return {name: value for name, value in values.items() if name in known}

    def _brought_by(self, slots: Sequence[str]) -> set[str]:
        """The inputs of the graphs that the cells of these columns make."""
        seen: set[str] = set()
        found: set[str] = set()
        for row in self.table.rows():
            cells = {name: row.cells[name] for name in slots if name in row.cells}
            if (text := repr(sorted(cells.items(), key=str))) not in seen:
                seen.add(text)
                try:
                    found |= {*overlay(self.pipe, {**self._swaps(self.values), **self._read_swaps(cells)}).inputs}
                except (ValueError, LookupError, InputError):
                    continue  # it is the error of its row
            if len(seen) >= _DISTINCT:
                break
        return found

    def request(self, row: Row) -> Request:
        """The request of a row.

        Raises:
            SfumatoError, ValueError, LookupError, OSError: cells that cannot be read, or that do not fit.
        """
        if row.error:
            raise LoadError(f"The row {row.error}")
        cells = {name: value for name, value in row.cells.items() if name not in self.keep}
        own = self.read(cells)
        values = {**self.values, **own}
        settled = settle(self.pipe, (), values)
        if drawn := drawn_inputs(settled.graph, settled.call.values):
            values |= dict.fromkeys(drawn, seed_of(self.pipe, cells, own))
        run = prepare(self.pipe, (), values).without_history()
        seed: Any = run.call.values.get("seed")
        return Request(row.number, self._key(run), seed if isinstance(seed, int) else None, run)

    def _key(self, run: Run) -> str:
        graph = run.graph
        try:
            key = outputs_key(run_order(graph, (OUTPUT,)), run.inputs, graph.adapted_bindings)
        except NoContentKey as error:
            raise ConfigError(
                f"The pictures of this row have no key, which is made of everything that they are drawn from: {error}. "
                "Pass values whose contents can be read, such as files."
            ) from None
        return digest(key, *self.written)

    def kept(self, row: Row) -> dict[str, Any]:  # JSON values
        """The cells that the manifest copies."""
        return {name: row.cells.get(name) for name in self.keep}

    # ------------------------------------------------------------------------------------------- cells
    def read(self, cells: Cells) -> dict[str, Any]:
        """The values of a call that the cells of a row say."""
        found = self._read_swaps(cells)
        if (listed := cells.get(ADAPTERS)) is not None and ADAPTERS not in self.pipe.inputs:
            found[ADAPTERS] = self._adapters(listed)
        inputs = {**self.pipe.inputs, **overlay(self.pipe, self._swaps({**self.values, **found})).inputs}
        for name, cell in cells.items():
            if name not in found:
                found[name] = self._value(cell, inputs[name].type) if name in inputs else cell
        return found

    def _read_swaps(self, cells: Cells) -> dict[str, Any]:
        return {
            name: self._swap(name, cell) if isinstance(cell, str) else cell for name, cell in self._swaps(cells).items()
        }

    def _swap(self, name: str, text: str) -> Any:  # a component, or the block of a slot
        if is_path(name, text) and self.table.folder is not None:
            text = str(self._path(text))
        return swap_from_text(self.pipe, name, text)

    def _value(self, cell: Any, kind: Any) -> Any:  # a cell and a type form; a value of the type
        if takes_picture(kind):
            return self._picture(cell)
        return parsed(cell, kind) if self.table.texts and isinstance(cell, str) else cell

    def _picture(self, cell: Any) -> Any:  # a cell; a picture, or several
        """The picture that a cell of a file names or has. Those of the program itself are left to the call."""
        if self.table.folder is None:
            return cell
        if isinstance(cell, str) and self.table.texts and cell.startswith("["):
            cell = parsed(cell, list[str])
        if isinstance(cell, list | tuple):
            return [self._picture(one) for one in cast("Sequence[object]", cell)]
        if isinstance(cell, Mapping):  # as `datasets` writes pictures into parquet files
            stored = cast("Mapping[str, Any]", cell)
            cell = stored.get("bytes") or stored.get("path")
        if isinstance(cell, bytes):
            return open_picture(BytesIO(cell))
        return open_picture(self._path(cell)) if isinstance(cell, str) else cell

    def _path(self, text: str) -> Path:
        """The file that a cell names: in the folder of the table, or in one that the program names."""
        assert self.table.folder is not None
        return path_inside(text, self.table.folder, self.folders, way="pass folders=[{path!r}] to sf.batch")

    def _adapters(self, cell: Any) -> list[Adapter]:  # a cell: a text, an adapter, or a list of them
        if isinstance(cell, str) and cell.startswith("["):
            cell = parsed(cell, list[str])
        listed: Sequence[Any] = cast("Sequence[Any]", cell) if isinstance(cell, list | tuple) else [cell]
        if listed in (["none"], ["None"]):
            return []
        taken: Any = self.pipe.adapters
        made = [self._adapter(one) if isinstance(one, str) else cast("Adapter", one) for one in listed]
        return numbered(made, () if taken is None else taken.names)

    def _adapter(self, text: str) -> Adapter:
        file, strength = split_strength(text)
        if self.table.folder is not None and (self.table.folder / file).exists():
            file = str(self._path(file))
        elif self.table.folder is not None and (Path(file).is_absolute() or Path(file).exists()):
            file = str(self._path(file))  # an error: it is a file of another place
        state = Path(file).stat() if Path(file).is_file() else None
        read = _read_adapter(file, state and (state.st_size, state.st_mtime_ns))
        return read if strength == 1.0 else read.scaled(strength)


@lru_cache(16)
def _read_adapter(file: str, state: object) -> Adapter:
    """An adapter, which is one object for all rows while the state of its file is the same."""
    return load_adapter(file)


def seed_of(graph: Structure, cells: Cells, values: Mapping[str, Any]) -> int:
    """The seed of a row that has none: 32 bits of the key of its cells, whatever the order of the columns."""
    named = {name: cells[name] for name in cells if name not in graph.inputs}
    data = to_json(graph, {name: value for name, value in values.items() if name not in named})
    return int(json_key({**data, **{name: _plain(value) for name, value in named.items()}})[:8], 16)


def _plain(value: Any) -> Any:  # a cell; JSON values
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in cast("Sequence[object]", value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in cast("Mapping[object, object]", value).items()}
    return content_key(value)


def error_text(error: BaseException) -> str:
    """An error on one line: its class, and its text."""
    return shortened(printable(f"{type(error).__name__}: {' '.join(str(error).split())}"), 2_000)
