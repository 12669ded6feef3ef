"""`sfumato batch`: draw a table of requests into a folder."""

import time
import warnings
from typing import Any

import typer

from .adapters import read_adapters
from .arguments import arguments, for_graph
from .memo import memo_of
from .messages import CommandError, print_json, print_note, print_text, reported_errors
from .options import (
    Address,
    AtOnce,
    BatchFolders,
    BatchFormat,
    BatchOutput,
    BatchSeed,
    Cpus,
    Debug,
    Device,
    DryRun,
    Dtype,
    Gpus,
    GraphFile,
    Guider,
    Json,
    Keep,
    Loras,
    Manifest,
    MemoFolder,
    Model,
    NoRecord,
    OnRay,
    Private,
    Revision,
    RunTask,
    Scheduler,
    Setting,
    TableFile,
    Trust,
    Variant,
    Workers,
)  # fmt: skip
from .progress import Progress
from .sources import Repo, open_pipeline, paused_garbage_collection

_SHOWN = 10


def batch(
    table: TableFile,
    output: BatchOutput = "batch",
    manifest: Manifest = "manifest.jsonl",
    format: BatchFormat = "png",
    keep: Keep = None,
    dry_run: DryRun = False,
    seed: BatchSeed = None,
    settings: Setting = None,
    model: Model = None,
    revision: Revision = None,
    variant: Variant = None,
    task: RunTask = None,
    graph: GraphFile = None,
    lora: Loras = None,
    guider: Guider = None,
    scheduler: Scheduler = None,
    device: Device = None,
    dtype: Dtype = None,
    memo: MemoFolder = None,
    trust_remote_code: Trust = None,
    folder: BatchFolders = None,
    at_once: AtOnce = 8,
    ray: OnRay = False,
    address: Address = None,
    workers: Workers = "1",
    cpus: Cpus = 1.0,
    gpus: Gpus = None,
    private: Private = None,
    no_record: NoRecord = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw each row of a table, with a manifest of all rows. A second call draws only what is missing.

    Columns are inputs (prompt, seed, image …), scheduler, guider and adapters. An empty cell is the default.

    Options are values of all rows, where a row has no cell. Exits with 1 if a row failed.

    Example: sfumato batch prompts.csv -o pictures --set num_inference_steps=20
    """
    with reported_errors(as_json=json, debug=debug), Progress() as progress:
        options = arguments({"seed": seed}, {"guider": guider, "scheduler": scheduler}, settings or [])
        progress.stage("importing torch")
        with paused_garbage_collection():
            from ..batch.batch import batch as draw
            from ..batch.on_ray import RayCluster
            from ..batch.reading import table_of

            rows = table_of(table)
            repo = Repo(trust_remote_code, revision, variant, tuple(folder or ()))
            columns = {name for name in rows.columns if name not in (keep or ()) and name != "adapters"}
            pipe = open_pipeline(model, task, graph, {*options.names, *columns}, device, dtype, repo)
            if adapters := read_adapters(lora or [], pipe):
                pipe = pipe.with_adapters(*adapters)
            call = for_graph(pipe, options, whole=False)
        cluster = RayCluster(address, _range(workers), cpus, gpus) if ray else None
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "[0-9]+ of [0-9,]+ rows? of the batch failed")  # it is shown below
            made = draw(
                pipe, rows, output, engine=cluster or "local", at_once=at_once, manifest=manifest, format=format,
                keep=keep or (), folders=folder or (), record=not no_record, private=private or (), dry_run=dry_run,
                **memo_of(memo), **{**call.inputs, **call.overlays},
            )  # fmt: skip
        seconds = time.perf_counter() - began
    _show(made, seconds, progress.notes, as_json=json, dry_run=dry_run)
    if made.failed:
        raise typer.Exit(1)


def _show(made: Any, seconds: float, notes: list[str], *, as_json: bool, dry_run: bool) -> None:  # a Batch
    counts = {"rows": len(made), "drawn": made.drawn, "found": made.found, "failed": made.failed}
    if as_json:
        failures = [{"row": row.row, "error": row.error} for row in made.failures]
        manifest = None if made.manifest is None else str(made.manifest)
        print_json({"folder": str(made.folder), "manifest": manifest, **counts, "failures": failures,
                    "seconds": round(seconds, 3), "notes": notes})  # fmt: skip
        return
    for row in made.failures[:_SHOWN]:
        print_note("error", f"row {row.row}: {row.error}")
    if made.failed > _SHOWN:
        print_note("error", f"{made.failed - _SHOWN} more rows failed.")
    did = "to draw" if dry_run else "drawn"
    found = f"{made.found} found, " if made.found else ""
    where = "." if dry_run else f". See {made.manifest}."
    print_text(
        f"{made.folder}: {len(made)} rows, {made.drawn} {did}, {found}{made.failed} failed, {seconds:.2f} s{where}"
    )


def _range(text: str) -> int | tuple[int, int]:
    """The number of workers, or the least and the most: "4", "2..8"."""
    first, dots, last = text.partition("..")
    try:
        return (int(first), int(last)) if dots else int(first)
    except ValueError:
        raise CommandError(f"--workers {text}: needs a number, such as 4, or a range, such as 2..8.") from None
