"""The options of `sfumato run`, as a new user reads them."""

from typing import Annotated, Any

import typer

_WHAT = "What to make"
_WITH = "With what"
_FILES = "Files"
_PART = "Its settings may follow: NAME:key=value,key=value."


def _option(*names: str, panel: str, **more: Any) -> Any:  # what typer.Option takes and gives
    make: Any = typer.Option
    return make(*names, rich_help_panel=panel, **{"show_default": False, **more})


Prompt = Annotated[str | None, typer.Argument(metavar="PROMPT", help="What the picture shows.", show_default=False)]
Negative = Annotated[str | None, _option(panel=_WHAT, metavar="TEXT", help="What it shall not show.")]
Image = Annotated[str | None, _option(panel=_WHAT, metavar="FILE", help="Picture to start from.")]
Mask = Annotated[str | None, _option(panel=_WHAT, metavar="FILE", help="White where --image is painted anew.")]
Count = Annotated[
    int | None,
    _option("-n", "--images", panel=_WHAT, metavar="NUMBER", show_default="1", help="How many pictures."),
]
Seed = Annotated[
    int | None,
    _option(
        panel=_WHAT, metavar="NUMBER", show_default="a fresh one, which is printed",
        help="The same seed and settings, the same picture.",
    ),
]  # fmt: skip
Setting = Annotated[
    list[str] | None,
    _option(
        "--set", panel=_WHAT, metavar="NAME=VALUE",
        help="Any input of the graph, such as num_inference_steps=30, and as often as you like; sfumato show MODEL "
        "lists them. Lists are JSON, pictures a file's path.",
    ),
]  # fmt: skip
Model = Annotated[
    str | None,
    _option(
        panel=_WITH, show_default="emoji", metavar="NAME",
        help="A preset with a model inside (sfumato presets lists them), a folder, or a repo of the Hub.",
    ),
]  # fmt: skip
Revision = Annotated[
    str | None,
    _option(panel=_WITH, metavar="NAME", show_default="main", help="Branch, tag or commit of the model's repo."),
]
Variant = Annotated[
    str | None,
    _option(panel=_WITH, metavar="NAME", help="Weights of this form, such as fp16, where the model has them."),
]
Task = Annotated[
    str | None,
    _option(
        panel=_WITH, metavar="NAME", show_default="the first that takes what is given",
        help="text2image, image2image, inpaint, or what else the model's family has.",
    ),
]  # fmt: skip
GraphFile = Annotated[
    str | None, _option("--graph", panel=_WITH, metavar="FILE", help="Run this graph file instead of a task's graph.")
]
Guider = Annotated[
    str | None,
    _option(panel=_WITH, metavar="NAME", show_default="the graph's", help=f"cfg, none … {_PART}"),
]
Scheduler = Annotated[
    str | None,
    _option(panel=_WITH, metavar="NAME", show_default="the model's", help=f"euler_a, ddim … {_PART}"),
]
Device = Annotated[
    str | None, _option(panel=_WITH, metavar="NAME", show_default="cpu", help="cpu, cuda, cuda:1, mps …")
]
Dtype = Annotated[
    str | None, _option(panel=_WITH, metavar="NAME", show_default="float32", help="float32, float16, bfloat16.")
]
Output = Annotated[
    str | None,
    _option(
        "--output", "-o", panel=_FILES, metavar="FILE", show_default="the prompt's words, .png",
        help="Picture to write (png, jpg, webp, tiff, bmp), or a folder; missing folders are made. Several are called "
        "apple.png, apple-2.png … Files of a name that you give are replaced; without one, a free name is taken.",
    ),
]  # fmt: skip
