"""The result of a sweep: a table of cells."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from ...registry import did_you_mean
from ..errors import InputError, Problem
from .axes import Axis, label_of, same_value
from .grid import draw_grid

if TYPE_CHECKING:
    from PIL.Image import Image


class Cell(NamedTuple):
    """One combination of a sweep.

    labels: the label of its value on each axis. values: these values. outputs: of its run; {} where it failed. error:
    why it failed, or None.
    """

    labels: Mapping[str, str]
    values: Mapping[str, Any]  # values of calls
    outputs: Mapping[str, Any]
    error: BaseException | None = None


class Sweep(Sequence[Cell]):
    """The cells of a sweep, in the order of their values, the last axis running fastest.

    `sweep[0]` is a cell, `sweep.at(prompt="a fox")` are the cells with that label or value, and `sweep.grid()` is one
    picture of all.

    axes: the labels on each axis, by its name. rows: the cells.
    """

    def __init__(self, axes: Sequence[Axis], rows: Sequence[Cell]) -> None:
        self._axes = tuple(axes)
        self.axes: Mapping[str, tuple[str, ...]] = {axis.name: axis.labels for axis in axes}
        self.rows = tuple(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Cell: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Cell]: ...
    def __getitem__(self, index: int | slice) -> Cell | Sequence[Cell]:
        return self.rows[index]

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.rows)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(labels)} of {name}" for name, labels in self.axes.items())
        return f"Sweep({len(self)} cells: {sizes or 'no axes'})"

    def at(self, **places: Any) -> "Sweep":
        """The cells at these places, as a smaller sweep without those axes.

        Args:
            places: for axes, a label or a value.

        Raises:
            InputError: no such axis, or no such label.
        """
        chosen = {name: self._label(name, place) for name, place in places.items()}
        rows = [row for row in self.rows if all(row.labels[name] == label for name, label in chosen.items())]
        left = [axis for axis in self._axes if axis.name not in chosen]
        return Sweep(left, [cell._replace(labels=_without(cell.labels, chosen)) for cell in rows])

    def _label(self, name: str, place: Any) -> str:
        axis = next((axis for axis in self._axes if axis.name == name), None)
        if axis is None:
            text = f"is no axis of this sweep. {did_you_mean(name, self.axes)}"
            raise InputError(Problem("unknown", name, text, name))
        for value, label in zip(axis.values, axis.labels, strict=True):
            if same_value(value, place):
                return label
        for label in (place, label_of(place)):
            if label in axis.labels:
                return label
        label = label_of(place)
        raise InputError(Problem("value", name, f"has no {label!r}. {did_you_mean(label, axis.labels)}", label))

    def grid(self, columns: str | None = None, output: str = "images") -> "Image":
        """One picture of all cells, with the labels of their values.

        Args:
            columns: the axis that runs from left to right; by default the last. The others run from top to bottom.
            output: the pictures; the first of each cell is shown.

        Raises:
            InputError: no such axis.
        """
        if columns is None:
            columns = self._axes[-1].name if self._axes else None
        elif columns not in self.axes:
            raise InputError(
                Problem("unknown", "columns", f"{columns!r} is no axis. {did_you_mean(columns, self.axes)}")
            )
        return draw_grid(self.axes, [(cell.labels, _picture(cell, output), cell.error) for cell in self], columns)

    def to_pandas(self) -> Any:  # pandas has no types of its own, and is optional
        """A data frame: a column for each axis, each output, and the errors.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas: Any = import_module("pandas")
        except ImportError as error:
            raise ImportError("sweep.to_pandas() needs pandas. Install it: pip install pandas") from error
        names = list(dict.fromkeys(name for cell in self for name in cell.outputs))
        records = [
            {**cell.labels, **{name: cell.outputs.get(name) for name in names}, "error": cell.error} for cell in self
        ]
        return pandas.DataFrame.from_records(records, columns=[*self.axes, *names, "error"])


def _without(labels: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, str]:
    return {name: label for name, label in labels.items() if name not in names}


def _picture(cell: Cell, output: str) -> Any:  # a PIL picture, or None
    pictures = cell.outputs.get(output)
    return pictures[0] if isinstance(pictures, Sequence) and len(pictures) else None
