"""The options of the commands, with the help texts that a new user reads."""

from typing import Annotated, Any

import typer

from .trust import FLAG

_PICTURE = "Picture"
_MODEL = "Model"
_OUTPUT = "Output"
_SETTINGS = "Add its settings as NAME:key=value,key=value."


def option(*names: str, panel: str | None = None, **more: Any) -> Any:  # what typer.Option takes and returns
    """An option with its help under a heading, whose default is shown only as a text."""
    make: Any = typer.Option
    return make(*names, rich_help_panel=panel, **{"show_default": False, **more})


# ------------------------------------------------------------------------------------------------ several commands
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for errors too.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. SFUMATO_DEBUG=1 does the same.")]
Trust = Annotated[
    str | None,
    option(
        FLAG, panel=_MODEL, metavar="[isolated|sha256:…]",
        help="Run the Python code that comes with the model. isolated: run it in a separate process. sha256:…: run it "
        "only if it has this hash. Without this option the code is listed and not run.",
    ),
]  # fmt: skip
Folders = Annotated[
    list[str] | None,
    option(
        "--folder", panel=_MODEL, metavar="PATH",
        help="A folder of yours that the graph file or index may name. Can be repeated. Without this option a file may "
        "name its own folder alone.",
    ),
]  # fmt: skip
Source = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A preset (listed by: sfumato presets), a folder, a Hub repo, a weight file or a graph file.",
    ),
]
Revision = Annotated[
    str | None,
    option(panel=_MODEL, metavar="NAME", show_default="main", help="Branch, tag or commit of the model's Hub repo."),
]
Variant = Annotated[str | None, option(panel=_MODEL, metavar="NAME", help="Variant of the weight files, such as fp16.")]
Task = Annotated[
    str | None,
    option(panel=_MODEL, metavar="NAME", show_default="text2image", help="A task of the model's family."),
]
CheckTask = Annotated[
    str | None,
    option("--task", panel=_MODEL, metavar="NAME", show_default="all", help="A task of the family."),
]

# ------------------------------------------------------------------------------------------------ sfumato show
SvgFile = Annotated[str | None, option("--svg", metavar="FILE", help="Write the graph as a picture to this file.")]
Mermaid = Annotated[bool, typer.Option("--mermaid", help="Print the graph as a mermaid flowchart.")]

# ------------------------------------------------------------------------------------------------ sfumato run
Prompt = Annotated[str | None, typer.Argument(metavar="PROMPT", help="What the picture shows.", show_default=False)]
Negative = Annotated[str | None, option(panel=_PICTURE, metavar="TEXT", help="What the picture must not show.")]
Image = Annotated[str | None, option(panel=_PICTURE, metavar="FILE", help="Picture to start from.")]
Mask = Annotated[
    str | None,
    option(panel=_PICTURE, metavar="FILE", help="Mask for --image. White areas are painted new, black ones are kept."),
]
Count = Annotated[
    int | None,
    option("-n", "--images", panel=_PICTURE, metavar="NUMBER", show_default="1", help="Number of pictures to make."),
]
Seed = Annotated[
    int | None,
    option(
        panel=_PICTURE, metavar="NUMBER", show_default="random, and printed",
        help="Seed of the random numbers. The same seed and settings make the same picture.",
    ),
]  # fmt: skip
Setting = Annotated[
    list[str] | None,
    option(
        "--set", panel=_PICTURE, metavar="NAME=VALUE",
        help="Set an input of the graph, such as num_inference_steps=30. Can be repeated. sfumato show MODEL lists the "
        "inputs. Write a list as JSON, and a picture as the path of its file.",
    ),
]  # fmt: skip
Model = Annotated[
    str | None,
    option(
        panel=_MODEL, show_default="emoji", metavar="NAME",
        help="An included model (listed by: sfumato presets), a folder, a Hub repo or a weight file.",
    ),
]  # fmt: skip
RunTask = Annotated[
    str | None,
    option(
        "--task", panel=_MODEL, metavar="NAME", show_default="chosen by the other options",
        help="text2image, image2image, inpaint, or another task of the model's family.",
    ),
]  # fmt: skip
GraphFile = Annotated[
    str | None,
    option("--graph", panel=_MODEL, metavar="FILE", help="Run this graph file instead of the graph of a task."),
]
Guider = Annotated[
    str | None,
    option(panel=_MODEL, metavar="NAME", show_default="the graph's", help=f"Guidance: cfg, none … {_SETTINGS}"),
]
Scheduler = Annotated[
    str | None,
    option(panel=_MODEL, metavar="NAME", show_default="the model's", help=f"euler_a, ddim … {_SETTINGS}"),
]
Attention = Annotated[
    str | None,
    option(
        "--attention", panel=_MODEL, metavar="NAME", show_default="the fastest that is known",
        help="The backend of attention: sdpa, flash, xformers, sliced …",
    ),
]  # fmt: skip
Decoder = Annotated[
    str | None,
    option(
        panel=_MODEL, metavar="tiny|PATH", show_default="the model's autoencoder",
        help="tiny: decode with the published tiny autoencoder (TAESD), which is faster. Or a folder, file or repo.",
    ),
]  # fmt: skip
Parallel = Annotated[
    list[str] | None,
    option(
        "--parallel", panel=_MODEL, metavar="PLAN", show_default=False,
        help="Divide each step over the processes of torchrun: guidance, batch or context. May be repeated.",
    ),
]  # fmt: skip
Device = Annotated[
    str | None, option(panel=_MODEL, metavar="NAME", show_default="cpu", help="cpu, cuda, cuda:1, mps …")
]
Dtype = Annotated[
    str | None,
    option(
        panel=_MODEL,
        metavar="NAME",
        show_default="float32",
        help="Number type of the weights: float32, float16, bfloat16.",
    ),
]
Budget = Annotated[
    str | None, option(panel=_MODEL, metavar="SIZE", help="The most memory for weights on the device, such as 8GB.")
]
MemoFolder = Annotated[
    str | None,
    option("--memo", panel=_MODEL, metavar="FOLDER", help="A folder with outputs of earlier runs, which are reused."),
]
Loras = Annotated[
    list[str] | None,
    option(
        "--lora", panel=_MODEL, metavar="FILE[:STRENGTH]",
        help="An adapter (LoRA or a relative), such as style.safetensors:0.6. Can be repeated.",
    ),
]  # fmt: skip
Output = Annotated[
    str | None,
    option(
        "--output", "-o", panel=_OUTPUT, metavar="FILE", show_default="a name made from the prompt",
        help="Picture file to write (png, jpg, webp, tiff, bmp), or a folder. Missing folders are created. Several "
        "are called apple.png, apple-2.png … A file that is named here is replaced. Otherwise no file is replaced.",
    ),
]  # fmt: skip
Private = Annotated[
    list[str] | None,
    option(
        "--private", panel=_OUTPUT, metavar="NAME",
        help="Leave this input out of the record in the file, such as prompt. Can be repeated.",
    ),
]  # fmt: skip
NoRecord = Annotated[
    bool,
    typer.Option(
        "--no-record", rich_help_panel=_OUTPUT,
        help="Write no record of the run into the file. SFUMATO_RECORD=0 does the same.",
    ),
]  # fmt: skip

# ------------------------------------------------------------------------------------------------ sfumato sweep
Vary = Annotated[
    list[str] | None,
    option(
        "--vary", panel=_PICTURE, metavar="NAME=VALUE",
        help="One of several values of an input, guider, scheduler or lora. Repeat it for each; seed=0..7 is eight.",
    ),
]  # fmt: skip
SweepOutput = Annotated[
    str, typer.Option("--output", "-o", rich_help_panel=_OUTPUT, metavar="FOLDER", help="A new or empty folder.")
]
AtOnce = Annotated[
    int, typer.Option(rich_help_panel=_MODEL, metavar="NUMBER", min=1, help="So many runs share forwards of the model.")
]

# ------------------------------------------------------------------------------------------------ sfumato batch
_RAY = "Ray"
TableFile = Annotated[str, typer.Argument(metavar="TABLE", help="A file with a row for each request: .jsonl, .csv, "
                                          ".tsv or .parquet.")]  # fmt: skip
BatchOutput = Annotated[
    str,
    typer.Option(
        "--output", "-o", rich_help_panel=_OUTPUT, metavar="FOLDER",
        help="The folder for pictures and the manifest. What it has is not drawn again.",
    ),
]  # fmt: skip
Manifest = Annotated[
    str,
    typer.Option(
        "--manifest", rich_help_panel=_OUTPUT, metavar="FILE",
        help="The table of results, in the folder or anywhere: .jsonl or .parquet.",
    ),
]  # fmt: skip
BatchSeed = Annotated[
    int | None,
    option(
        "--seed", panel=_PICTURE, metavar="NUMBER", show_default="made from the row's cells",
        help="Seed of the random numbers of rows without one.",
    ),
]  # fmt: skip
BatchFormat = Annotated[
    str,
    typer.Option("--format", rich_help_panel=_OUTPUT, metavar="NAME", help="png, jpg, webp, tiff or bmp."),
]
Keep = Annotated[
    list[str] | None,
    option(
        "--keep", panel=_OUTPUT, metavar="COLUMN",
        help="Copy this column into the manifest, and leave it out of the calls. Can be repeated.",
    ),
]  # fmt: skip
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check all rows, say how many would be drawn, and draw none.")]
BatchFolders = Annotated[
    list[str] | None,
    option(
        "--folder", panel=_MODEL, metavar="PATH",
        help="A folder of yours that paths in the table, graph file or index may lead to. Can be repeated. Without "
        "this option a file may name its own folder alone.",
    ),
]  # fmt: skip
OnRay = Annotated[bool, typer.Option("--ray", rich_help_panel=_RAY, help="Draw on a cluster of Ray.")]
Address = Annotated[
    str | None,
    option("--address", panel=_RAY, metavar="TEXT", show_default="this machine", help="A running cluster: auto, or "
           "ray://host:10001."),
]  # fmt: skip
Workers = Annotated[
    str,
    typer.Option("--workers", rich_help_panel=_RAY, metavar="NUMBER", help="Processes that draw: 4, or 2..8."),
]
Cpus = Annotated[float, typer.Option("--cpus", rich_help_panel=_RAY, metavar="NUMBER", help="CPUs of each worker.")]
Gpus = Annotated[
    float | None,
    option("--gpus", panel=_RAY, metavar="NUMBER", show_default="1 with --device cuda", help="GPUs of each worker."),
]

# ------------------------------------------------------------------------------------------------ sfumato replay
Recorded = Annotated[str, typer.Argument(metavar="FILE", help="A PNG, JPEG or WebP file that sfumato saved.")]
ModelFolders = Annotated[
    list[str] | None,
    option(
        "--folder", metavar="PATH", show_default="the working folder",
        help="A folder with the models and adapters that were local files. Can be repeated.",
    ),
]  # fmt: skip
ReplayImage = Annotated[str | None, option("--image", metavar="FILE", help="The picture that the run started from.")]
ReplayMask = Annotated[str | None, option("--mask", metavar="FILE", help="The mask of that run.")]
ReplaySetting = Annotated[
    list[str] | None,
    option(
        "--set", metavar="NAME=VALUE",
        help="Pass an input that the record does not have, or another value of one that it has. Can be repeated.",
    ),
]  # fmt: skip
ReplayOutput = Annotated[str | None, option("--output", "-o", metavar="FILE", help="Write the new picture, too.")]

# ------------------------------------------------------------------------------------------------ sfumato adapter
AdapterFile = Annotated[
    str, typer.Argument(metavar="FILE[:STRENGTH]", help="A file, a folder, a Hub repo, or a file of a repo.")
]
AdapterFiles = Annotated[
    list[str], typer.Argument(metavar="FILE[:STRENGTH]", help="Two adapters or more, each with its factor.")
]
AdapterOutput = Annotated[
    str, option("--output", "-o", metavar="FILE", help="The safetensors file to write. It is replaced if it exists.")
]
AdapterModel = Annotated[
    str | None,
    option(
        "--model", metavar="NAME", show_default="found by the names and shapes",
        help="The model that the adapter is for. Needed for models of unpublished sizes.",
    ),
]  # fmt: skip
Layout = Annotated[
    str,
    option("--layout", metavar="NAME", show_default=True, help="Names in the file: peft (diffusers), kohya or comfy."),
]
Tuned = Annotated[str, typer.Argument(metavar="TUNED", help="The trained model: a folder, a Hub repo or a file.")]
Base = Annotated[str, typer.Argument(metavar="BASE", help="The model that it was trained from.")]
ExtractRank = Annotated[
    int,
    option(
        "--rank", metavar="NUMBER", show_default=True,
        help="The largest rank of a matrix. A larger one is more exact, and makes a larger file.",
    ),
]  # fmt: skip
Rank = Annotated[
    int | None,
    option("--rank", metavar="NUMBER", help="The rank of the result of svd, ties and dare. Default: whole matrices."),
]
Threshold = Annotated[
    float,
    option(
        "--threshold", metavar="NUMBER", show_default=True,
        help="The allowed error, as a fraction of each difference. Matrices take the smallest rank within it.",
    ),
]  # fmt: skip
Rest = Annotated[
    str,
    option(
        "--rest", metavar="NAME", show_default=True,
        help="The differences of biases and norms: keep or drop. Layout peft cannot keep those of norms.",
    ),
]  # fmt: skip
Method = Annotated[
    str,
    option(
        "--method", metavar="NAME", show_default=True,
        help="cat (the exact sum), svd (the sum at a rank), ties or dare.",
    ),
]  # fmt: skip
Density = Annotated[
    float, option("--density", metavar="NUMBER", show_default=True, help="The fraction that ties and dare keep.")
]
DropSeed = Annotated[
    int, option("--seed", metavar="NUMBER", show_default=True, help="Seed of the numbers that dare drops.")
]


# ------------------------------------------------------------------------------------------------ import
ImportedFile = Annotated[
    str, typer.Argument(metavar="FILE", help="A workflow of ComfyUI: a JSON file, or a picture that ComfyUI made.")
]
ModelsFolder = Annotated[
    str | None, option("--models", metavar="PATH", help="ComfyUI's folder models. Its files are looked up by name.")
]
PictureFolder = Annotated[
    str | None, option("--images", metavar="PATH", help="ComfyUI's folder input, with the pictures that are loaded.")
]
ImportedFolder = Annotated[str | None, option("--output", "-o", metavar="FOLDER", help="Write graph.json here.")]
