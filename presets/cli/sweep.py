"""`sfumato sweep`: make pictures of all combinations of some values, a grid of them and a table."""

import json as json_format
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..records.files import as_pictures, write_picture
from .adapters import read_adapters
from .arguments import Arguments, arguments, for_graph
from .messages import CommandError, print_json, print_text, reported_errors
from .options import (
    AtOnce,
    Debug,
    Device,
    Dtype,
    Folders,
    GraphFile,
    Guider,
    Image,
    Json,
    Loras,
    Mask,
    Model,
    Negative,
    NoRecord,
    Private,
    Prompt,
    Revision,
    RunTask,
    Scheduler,
    Seed,
    Setting,
    SweepOutput,
    Trust,
    Variant,
    Vary,
)  # fmt: skip
from .progress import Progress
from .sources import Repo, open_pipeline, paused_garbage_collection

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def sweep(
    prompt: Prompt = None,
    vary: Vary = None,
    negative: Negative = None,
    image: Image = None,
    mask: Mask = None,
    seed: Seed = None,
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
    trust_remote_code: Trust = None,
    folder: Folders = None,
    output: SweepOutput = "sweep",
    at_once: AtOnce = 8,
    private: Private = None,
    no_record: NoRecord = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make pictures of all combinations of some values, with a grid of them and a table.

    Example: sfumato sweep "a red apple" --vary seed=0..3 --vary guider=cfg --vary guider=none -o apples
    """
    with reported_errors(as_json=json, debug=debug), Progress() as progress:
        texts = varied(vary or [])
        plain = {"prompt": prompt, "negative_prompt": negative, "seed": seed}
        options = arguments(
            {name: value for name, value in plain.items() if value is not None},
            {"image": image, "mask_image": mask, "guider": guider, "scheduler": scheduler},
            settings or [],
        )
        if twice := [name for name in texts if name in options.names]:
            raise CommandError(f"--vary {twice[0]}=…: {twice[0]} is set, too. Remove one.")
        place = _new_folder(output)
        progress.stage("importing torch")
        with paused_garbage_collection():
            repo = Repo(trust_remote_code, revision, variant, tuple(folder or ()))
            pipe = open_pipeline(model, task, graph, {*options.names, *texts} - {"lora"}, device, dtype, repo)
            if adapters := read_adapters(lora or [], pipe):
                pipe = pipe.with_adapters(*adapters)
            call, axes = _values(pipe, options, texts)
        progress.stage("running")
        began = time.perf_counter()
        made = pipe.sweep(at_once=at_once, **{**call, **axes})
        progress.stage("writing")
        place.mkdir(parents=True, exist_ok=True)
        rows = _write(made, place, record=not no_record, private=private or ())
        made.grid().save(place / "grid.png")
        lines = "".join(f"{json_format.dumps(row, ensure_ascii=False)}\n" for row in rows)
        (place / "table.jsonl").write_text(lines, encoding="utf-8")
        seconds = time.perf_counter() - began
    if json:
        print_json({"folder": str(place), "cells": rows, "seconds": round(seconds, 3), "notes": progress.notes})
        return
    failed = sum(bool(row.get("error")) for row in rows)
    print_text(f"{place}: {len(rows)} combinations, {failed} failed, {seconds:.2f} s. See grid.png and table.jsonl.")


def varied(texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The values of each name: NAME=VALUE adds one, NAME=FIRST..LAST adds whole numbers.

    >>> varied(["seed=0..2", "guider=cfg", "guider=none"])
    {'seed': ['0', '1', '2'], 'guider': ['cfg', 'none']}
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise CommandError(f"--vary {text!r}: has no value. Write --vary NAME=VALUE, once for each value.")
        numbers = _RANGE.fullmatch(value.strip())
        if numbers is None:
            values = [value]
        else:
            first, last = int(numbers[1]), int(numbers[2])
            if not 0 <= last - first < 10_000:
                raise CommandError(f"--vary {text!r}: needs a range of 1 to 10,000 numbers, the lower one first.")
            values = [str(number) for number in range(first, last + 1)]
        found.setdefault(name.strip(), []).extend(values)
    return found


def _values(
    pipe: Any, options: Arguments, texts: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:  # a Graph; values of calls
    """The values of all runs, and those of each axis, read by the types of the graph's inputs."""
    own = {name: values for name, values in texts.items() if name != "lora"}
    firsts = {name: values[0] for name, values in own.items()}

    def read(name: str, text: str) -> Any:  # a value of a call
        call = for_graph(pipe, Arguments(options.values, {**options.texts, **firsts, name: text}))
        return call.overlays[name] if name in call.overlays else call.inputs[name]

    first = for_graph(pipe, Arguments(options.values, {**options.texts, **firsts}))
    everything = {**first.inputs, **first.overlays}
    axes: dict[str, list[Any]] = {}
    for name, values in texts.items():
        if name == "lora":
            axes["adapters"] = [[] if text == "none" else read_adapters([text], pipe) for text in values]
        else:
            axes[name] = [read(name, text) for text in values]
    return {name: value for name, value in everything.items() if name not in axes}, axes


def _new_folder(output: str) -> Path:
    place = Path(output).expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise CommandError(f"{place}: exists, and is no empty folder. Pass another folder with --output.")
    return place


def _write(made: Any, place: Path, *, record: bool, private: Sequence[str]) -> list[dict[str, Any]]:  # a Sweep; JSON
    rows: list[dict[str, Any]] = []
    for number, cell in enumerate(made, 1):
        row: dict[str, Any] = {**cell.labels}
        if cell.error is not None:
            rows.append({**row, "files": [], "error": f"{type(cell.error).__name__}: {cell.error}"})
            continue
        files: list[str] = []
        for k, picture in enumerate(as_pictures(cell.outputs["images"]), 1):
            path = place / f"{number:04d}{f'-{k}' if k > 1 else ''}.png"
            write_picture(picture, path, record=record, private=private)
            files.append(path.name)
        rows.append({**row, "files": files})
    return rows
