"""`sfumato plan`: what a run would do and need, before it runs."""

import typer

from .adapters import read_adapters
from .arguments import arguments, for_graph
from .memo import memo_of
from .messages import print_json, print_text, reported_errors
from .options import (
    Budget,
    Count,
    Debug,
    Decoder,
    Device,
    Dtype,
    Folders,
    GraphFile,
    Guider,
    Image,
    Json,
    Loras,
    Mask,
    MemoFolder,
    Model,
    Negative,
    Prompt,
    Revision,
    RunTask,
    Scheduler,
    Seed,
    Setting,
    Trust,
    Variant,
)  # fmt: skip
from .sources import Repo, open_pipeline, paused_garbage_collection


def plan(
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
    task: RunTask = None,
    graph: GraphFile = None,
    lora: Loras = None,
    guider: Guider = None,
    scheduler: Scheduler = None,
    decoder: Decoder = None,
    device: Device = None,
    dtype: Dtype = None,
    budget: Budget = None,
    memo: MemoFolder = None,
    trust_remote_code: Trust = None,
    folder: Folders = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a run would do and need: nodes, operations, weights, memory, downloads. Loads no weights.

    If it does not fit into the budget or the memory, it shows changes with which it would. Exits with 1 then.

    Example: sfumato plan "a fox" --model stabilityai/stable-diffusion-xl-base-1.0 --device cuda --dtype float16
    """
    with reported_errors(as_json=json, debug=debug):
        options = arguments(
            {"prompt": prompt, "negative_prompt": negative, "seed": seed, "num_images_per_prompt": images},
            {"image": image, "mask_image": mask, "guider": guider, "scheduler": scheduler, "decoder": decoder},
            settings or [],
        )
        with paused_garbage_collection():
            repo = Repo(trust_remote_code, revision, variant, tuple(folder or ()))
            pipe = open_pipeline(model, task, graph, options.names, device, dtype, repo, budget)
            if adapters := read_adapters(lora or [], pipe):
                pipe = pipe.with_adapters(*adapters)
            call = for_graph(pipe, options)
        made = pipe.plan(**call.inputs, **call.overlays, **memo_of(memo))
        if json:
            print_json(made.to_json())
        else:
            print_text(*str(made).split("\n"))
    if not made.fits:
        raise typer.Exit(1)
