"""Drawing the rows of a batch on a Ray cluster, as a job of Ray Data."""

import logging
import os
import pickle
import sys
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...graph import ConfigError, LoadError
from ...registry import printable
from .drawing import Drawing, Emit
from .manifest import BatchRow
from .table import Table

_WINDOWS = 4
"""A task draws so many windows of runs: a lost node loses no more, and no run of them that has ended."""
_BLOCKS = 2_000
"""The most blocks of tasks, each of which costs the driver memory and time."""


@dataclass(frozen=True)
class RayCluster:
    """The cluster that draws a batch, and what each worker of it gets.

    address: of a running cluster ("auto", "ray://host:10001"); None for the one that the program is connected to, or a
    new one on this machine. workers: their number, or the least and the most. cpus, gpus: of each worker; gpus is by
    default 1 where the pipeline is on cuda. All nodes need the folder of the batch and the files of table and models
    under the same paths.
    """

    address: str | None = None
    workers: int | tuple[int, int] = 1
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        least, most = self.range
        if not 1 <= least <= most:
            raise ConfigError(f"workers: needs a number, or the least and the most, at least 1, got {self.workers}.")
        if self.cpus < 0 or (self.gpus or 0) < 0:
            raise ConfigError(f"cpus, gpus: need 0 or more, got {self.cpus} and {self.gpus}.")

    @property
    def range(self) -> tuple[int, int]:
        """The least and the most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)


class Worker:
    """Draws parts of the table. An actor of Ray Data holds one, with its manager and its models."""

    def __init__(self, drawing: bytes, table: bytes) -> None:
        self._drawing: Drawing = pickle.loads(drawing)
        self._table: Table = pickle.loads(table)

    def __call__(self, spans: Mapping[str, Any]) -> dict[str, list[str]]:  # arrays of numpy
        """The rows of the manifest, as texts, of these parts of the table."""
        made: list[str] = []
        for start, stop in zip(spans["start"], spans["stop"], strict=True):
            rows = self._table.rows(int(start), int(stop))
            self._drawing.draw(rows, lambda row: made.append(row.to_text()))
        return {"row": made}


def draw_on_ray(drawing: Drawing, table: Table, cluster: RayCluster, emit: Emit) -> None:
    """Draw all rows of a table on a cluster. The rows of a lost worker that have no result are drawn by another one.

    Raises:
        GraphError: a pipeline that cannot be sent to another process.
        LoadError: Ray is not installed, or there is no cluster at the address.
    """
    sent = pickle.dumps(drawing), pickle.dumps(table)
    size = drawing.at_once * _WINDOWS
    spans = [{"start": start, "stop": min(start + size, len(table))} for start in range(0, len(table), size)]
    gpus = cluster.gpus if cluster.gpus is not None else float(_is_on_cuda(drawing))
    with _connected(cluster) as ray:
        made = ray.data.from_items(spans, override_num_blocks=min(len(spans), _BLOCKS)).map_batches(
            Worker, fn_constructor_args=sent, batch_size=1, num_cpus=cluster.cpus, num_gpus=gpus or None,
            concurrency=cluster.range,
        )  # fmt: skip
        seen: set[int] = set()
        for found in made.iter_rows():
            row = BatchRow.of_text(found["row"])
            if row.row not in seen:  # a part that was drawn twice is emitted once
                seen.add(row.row)
                emit(row)


def _is_on_cuda(drawing: Drawing) -> bool:
    return any(str(getattr(one, "device", "")).startswith("cuda") for one in drawing.reader.pipe.bindings.values())


@contextmanager
def _connected(cluster: RayCluster) -> Generator[Any]:
    """Ray, connected to the cluster. One that was started here ends with the block, and sends no usage reports."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")  # of Ray's modules about each other
        ray = _ray(alone=cluster.address is None)
        mine = not ray.is_initialized()
        if mine:
            _connect(ray, cluster)
        context = ray.data.DataContext.get_current()
        bars, context.enable_progress_bars = context.enable_progress_bars, False
        log = logging.getLogger("ray.data")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            yield ray
        finally:
            log.setLevel(level)
            context.enable_progress_bars = bars
            if mine:
                ray.shutdown()


def _connect(ray: Any, cluster: RayCluster) -> None:  # the module
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address is None:
        ray.init(address="local", include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=cluster.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        text = printable(str(error).partition("\n")[0])
        raise LoadError(f"{printable(cluster.address)}: no cluster of Ray answers at this address ({text}).") from error


def _ray(*, alone: bool) -> Any:  # the module, whose types pyright does not know
    """Ray. alone: whether a cluster may be started here, which no other machine reaches, and which reports nothing."""
    if alone and "ray" not in sys.modules:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else it asks the network for its address
    try:
        return import_module("ray.data") and import_module("ray")
    except ImportError as error:
        raise LoadError('Ray is not installed. Run: pip install "sfumato[ray]"') from error
