"""`sfumato run`: a prompt becomes picture files."""

import time
from pathlib import Path
from typing import Any

import typer

from .asked import about, asked, read
from .options import (
    Count,
    Device,
    Dtype,
    GraphFile,
    Guider,
    Image,
    Mask,
    Model,
    Negative,
    Output,
    Prompt,
    Revision,
    Scheduler,
    Seed,
    Setting,
    Task,
    Variant,
)  # fmt: skip
from .output import as_pictures, files, size, target, write
from .progress import Watch
from .source import EMOJI, Reach, importing, open_pipe
from .telling import Debug, Json, Trust, say, telling


def run(
    prompt: Prompt = None,
    negative: Negative = None,
    image: Image = None,
    mask: Mask = None,
    images: Count = None,
    seed: Seed = None,
    settings: Setting = None,
    model: Model = None,
    revision: Revision = None,
    variant: Variant = None,
    task: Task = None,
    graph: GraphFile = None,
    guider: Guider = None,
    scheduler: Scheduler = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = None,
    output: Output = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make pictures from a prompt. A PNG carries its settings, as the text chunk `sfumato`.

    Example: sfumato run "a red apple" -o apple.png --seed 7 --scheduler euler_a --set num_inference_steps=20
    """
    with telling(as_json=json, debug=debug), Watch() as watch:
        wanted = asked(
            {"prompt": prompt, "negative_prompt": negative, "seed": seed, "num_images_per_prompt": images},
            {"image": image, "mask_image": mask, "guider": guider, "scheduler": scheduler},
            settings or [],
        )
        first, replace = target(output, prompt)
        watch.stage("importing torch")
        with importing():
            reach = Reach(trust_remote_code, revision, variant)
            pipe = open_pipe(model, task, graph, wanted.names, device, dtype, reach)
            settled = read(pipe, wanted)
        watch.stage("checking")
        began = time.perf_counter()
        stream = pipe.stream(**settled.values, **settled.swaps)
        for event in stream:
            watch.see(event)
        made = as_pictures(stream.outputs["images"])
        watch.stage("writing")
        named = {"model": model if graph else model or EMOJI, "revision": revision, "variant": variant, "graph": graph}
        named["dtype"] = dtype or "float32"
        source = {name: text for name, text in named.items() if text is not None}
        told = about(pipe, source, settled)
        rows: list[tuple[Path, Any]] = []
        for k, (picture, path) in enumerate(zip(made, files(first, len(made), replace=replace), strict=True), 1):
            write(picture, path, told if len(made) == 1 else {**told, "picture": [k, len(made)]})
            rows.append((path, picture))
        seconds = time.perf_counter() - began
    if json:
        written = [
            {"path": str(path), "width": p.width, "height": p.height, "bytes": path.stat().st_size} for path, p in rows
        ]
        say({"files": written, "seconds": round(seconds, 3), **told, "notes": watch.notes})
        return
    with_seed = f", seed {settled.shown['seed']}" if "seed" in settled.shown else ""
    for path, p in rows:
        typer.echo(f"{path}  ({p.width}x{p.height}, {size(path.stat().st_size)}, {seconds:.2f} s{with_seed})")
