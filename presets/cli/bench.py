"""`sfumato bench`: seconds, operations and memory of a pipeline, between engines and over time."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import arguments, for_graph
from .messages import CommandError, print_json, print_text, reported_errors
from .options import Debug, Device, Dtype, Guider, Json, Revision, RunTask, Scheduler, Setting, Source, Variant
from .sources import Repo, make_manager, open_pipeline, paused_garbage_collection

Random = Annotated[
    bool, typer.Option("--random", help="Use random weights of the published size: sd, sdxl, sd3 or flux. No download.")
]
EngineNames = Annotated[
    list[str] | None,
    typer.Option(
        "--engine", metavar="NAME[:key=value,…]", show_default=False,
        help="Run this engine too, in turns with torch: openvino, compile, fused, graphs, max. Can be repeated.",
    ),
]  # fmt: skip
Against = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default=False, help="Time the denoiser and decoder of diffusers beside ours."),
]
Rounds = Annotated[int, typer.Option(metavar="NUMBER", help="Runs of each side that are counted.")]
Save = Annotated[
    str | None,
    typer.Option(metavar="FILE", show_default=False, help="Write the seconds into this file, as a baseline."),
]
Compare = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", show_default=False,
        help="Compare with the baseline in this file. Exits with 1 if a part is slower than noise explains.",
    ),
]  # fmt: skip


def bench(
    model: Source,
    random: Random = False,
    engine: EngineNames = None,
    against: Against = None,
    rounds: Rounds = 5,
    settings: Setting = None,
    task: RunTask = None,
    guider: Guider = None,
    scheduler: Scheduler = None,
    revision: Revision = None,
    variant: Variant = None,
    device: Device = None,
    dtype: Dtype = None,
    save: Save = None,
    compare: Compare = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a pipeline: seconds, operations, share of the machine's rate and memory of each block.

    Engines run in turns with torch, so that a busy machine slows all of them. It uses as many threads as torch does.

    Example: sfumato bench sd --random --set height=256 --set width=256 --set num_inference_steps=2 --engine openvino
    """
    with reported_errors(as_json=json, debug=debug):
        options = arguments(
            {"prompt": "a photo of a fox", "seed": 0}, {"guider": guider, "scheduler": scheduler}, settings or []
        )
        with paused_garbage_collection():
            from ..bench.baseline import changes_since, save_baseline
            from ..bench.measure import measure
            from ..bench.published import random_pipeline

            if random:
                pipe: Any = random_pipeline(model, make_manager(device, dtype))
                pipe = pipe if task is None else pipe.task(task)
            else:
                pipe = open_pipeline(model, task, None, options.names, device, dtype, Repo(None, revision, variant))
            call = for_graph(pipe, options)
        made = measure(
            pipe.using(**call.overlays), call.inputs, model=f"{model} (random)" if random else model, rounds=rounds,
            engines=dict(_with_engine(pipe.using(**call.overlays), text) for text in engine or ()), against=against,
        )  # fmt: skip
        changes = changes_since(made, Path(compare).expanduser()) if compare else []
        if save:
            save_baseline(made, Path(save).expanduser())
        if json:
            rows = [{"part": c.part, "ratio": c.ratio, "limit": c.limit, "slower": c.is_regression} for c in changes]
            print_json({**made.to_json(), "changes": rows})
        else:
            print_text(*str(made).split("\n"), *(["", *map(str, changes)] if changes else []))
    if any(change.is_regression for change in changes):
        raise typer.Exit(1)


def _with_engine(pipe: Any, text: str) -> tuple[str, Any]:  # a Graph, and one with an engine
    """The graph with the engine of a text "openvino:weights=int8"."""
    from ..values import name_and_config

    try:
        name, config = name_and_config(text)
    except ValueError as error:
        raise CommandError(f"--engine {error}") from None
    on = {"true": True, "false": False}
    return text, pipe.optimize(name, **{key: on.get(value, value) for key, value in config.items()})
