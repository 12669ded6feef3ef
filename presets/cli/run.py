"""`sfumato run`: make picture files from a prompt."""

import time

from ..records.files import as_pictures, write_picture
from .adapters import read_adapters
from .arguments import arguments, for_graph, settings_of
from .memo import memo_of
from .messages import is_first_process, print_json, print_text, reported_errors
from .options import (
    Attention,
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
    NoRecord,
    Output,
    Parallel,
    Private,
    Prompt,
    Revision,
    RunTask,
    Scheduler,
    Seed,
    Setting,
    Trust,
    Variant,
)  # fmt: skip
from .output import first_path, numbered_paths, size_text
from .progress import Progress
from .sources import DEFAULT_MODEL, Repo, open_pipeline, own_device, paused_garbage_collection


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
    task: RunTask = None,
    graph: GraphFile = None,
    lora: Loras = None,
    guider: Guider = None,
    scheduler: Scheduler = None,
    decoder: Decoder = None,
    attention: Attention = None,
    parallel: Parallel = None,
    device: Device = None,
    dtype: Dtype = None,
    memo: MemoFolder = None,
    trust_remote_code: Trust = None,
    folder: Folders = None,
    output: Output = None,
    private: Private = None,
    no_record: NoRecord = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make pictures from a prompt. PNG, JPEG and WebP files have a record of the run: see `sfumato replay`.

    Example: sfumato run "a red apple" -o apple.png --seed 7 --scheduler euler_a --set num_inference_steps=20
    """
    with reported_errors(as_json=json, debug=debug), Progress() as progress:
        options = arguments(
            {"prompt": prompt, "negative_prompt": negative, "seed": seed, "num_images_per_prompt": images},
            {"image": image, "mask_image": mask, "guider": guider, "scheduler": scheduler, "decoder": decoder},
            settings or [],
        )
        first, replace = first_path(output, prompt)
        progress.stage("importing torch")
        with paused_garbage_collection():
            repo = Repo(trust_remote_code, revision, variant, tuple(folder or ()))
            pipe = open_pipeline(model, task, graph, options.names, own_device(device), dtype, repo)
            if adapters := read_adapters(lora or [], pipe):
                pipe = pipe.with_adapters(*adapters)
            if attention:
                pipe = pipe.using(attention=attention)
            if parallel:
                pipe = pipe.parallel(*parallel)
            call = for_graph(pipe, options)
        progress.stage("checking")
        began = time.perf_counter()
        stream = pipe.stream(**call.inputs, **call.overlays, **memo_of(memo))
        for event in stream:
            progress.show(event)
        if not is_first_process():
            return
        pictures = as_pictures(stream.outputs["images"])
        progress.stage("writing")
        model = model if graph else model or DEFAULT_MODEL
        options_used = {"model": model, "revision": revision, "variant": variant, "graph": graph}
        options_used["dtype"] = dtype or "float32"
        used = settings_of(pipe, {name: text for name, text in options_used.items() if text is not None}, call)
        used |= {"lora": lora} if lora else {}
        used |= {"attention": attention} if attention else {}
        written = list(zip(pictures, numbered_paths(first, len(pictures), replace=replace), strict=True))
        for picture, path in written:
            write_picture(picture, path, record=not no_record, private=private or ())
        seconds = time.perf_counter() - began
    if json:
        files = [
            {"path": str(path), "width": p.width, "height": p.height, "bytes": path.stat().st_size}
            for p, path in written
        ]
        print_json({"files": files, "seconds": round(seconds, 3), **used, "notes": progress.notes})
        return
    seed_text = f", seed {call.record['seed']}" if "seed" in call.record else ""
    for p, path in written:
        size = size_text(path.stat().st_size)
        print_text(f"{path}  ({p.width}x{p.height}, {size}, {seconds:.2f} s{seed_text})")
