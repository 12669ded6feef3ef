"""`sfumato run`: a prompt becomes picture files."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .asked import about, asked, read
from .output import as_pictures, files, size, target, write
from .progress import Watch
from .source import EMOJI, open_pipe
from .telling import Debug, Json, say, telling

_PART = "NAME, or NAME:key=value,key=value"


def run(
    prompt: Annotated[str | None, typer.Argument(help="What the picture shows.", show_default=False)] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            show_default="the prompt's words, .png",
            help="Picture file to write (png, jpg, webp, tiff, bmp), or a folder. Missing folders are made. A file "
            "named here is replaced if it is there; without --output a free name is taken.",
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("-n", "--images", min=1, show_default="1", help="How many: apple.png, apple-2.png, …"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(show_default="emoji", help="Preset with a model inside (see: sfumato presets), or a folder."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            show_default="the one that takes what is given",
            help="text2image, image2image, inpaint, or another that the model's family has.",
        ),
    ] = None,
    graph: Annotated[
        str | None,
        typer.Option(help="Graph file or folder to run instead of the task's own graph.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            show_default=False,
            help="Any input of the graph (see: sfumato show MODEL), as in --set num_inference_steps=30. Lists are "
            "written as JSON, pictures as a file's path. May be given many times.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(show_default="a fresh one, which is printed", help="The same seed, the same picture.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What the picture shall not show.", show_default=False)] = None,
    image: Annotated[str | None, typer.Option(help="Picture file to start from.", show_default=False)] = None,
    mask: Annotated[
        str | None, typer.Option(help="Picture file that is white where --image is painted anew.", show_default=False)
    ] = None,
    guider: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="the model's", help=f"{_PART}: ClassifierFreeGuidance:guidance_scale=4"
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="the model's", help=f"{_PART}: euler_a, ddim:eta=0.5")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps …", show_default="cpu")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.", show_default="float32")] = None,
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
        pipe = open_pipe(model, task, graph, wanted.names, device, dtype)
        settled = read(pipe, wanted)
        watch.stage("checking")
        began = time.perf_counter()
        stream = pipe.stream(**settled.values, **settled.swaps)
        for event in stream:
            watch.see(event)
        made = as_pictures(stream.outputs["images"])
        watch.stage("writing")
        source = {
            "model": model or (graph or EMOJI),
            **({"graph": graph} if graph else {}),
            "dtype": dtype or "float32",
        }
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
