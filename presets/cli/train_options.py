"""The options of `sfumato train`, with the help texts that a new user reads."""

from typing import Annotated

import typer

from .options import option

_DATA = "Data"
_TRAINING = "Training"
_OUTPUT = "Output"

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of pictures with captions (fox.png beside fox.txt), a parquet, csv, jsonl or tar file, or a "
        "repo of datasets on the Hub.",
        show_default=False,
    ),
]
TrainModel = Annotated[
    str,
    option(
        "--model", panel=_TRAINING, metavar="NAME", show_default=True,
        help="The model to train: an included one, a folder, a Hub repo or a weight file.",
    ),
]  # fmt: skip
TrainOutput = Annotated[
    str,
    option(
        "--output", "-o", panel=_OUTPUT, metavar="FOLDER",
        help="The folder for the result, its card, checkpoints, sample pictures and logs.",
    ),
]  # fmt: skip
SettingsFile = Annotated[
    str | None,
    option(
        "--settings", panel=_TRAINING, metavar="FILE",
        help="A TOML or JSON file of settings. Options of the command line come before those of the file.",
    ),
]  # fmt: skip
TrainSetting = Annotated[
    list[str] | None,
    option(
        "--set", panel=_TRAINING, metavar="NAME=VALUE",
        help="A setting, such as rank=16 or optimizer=prodigy. Values as in TOML. Can be repeated. --list prints all.",
    ),
]  # fmt: skip
ListSettings = Annotated[
    bool, typer.Option("--list", rich_help_panel=_TRAINING, help="Print all settings of this method, and exit.")
]
Steps = Annotated[
    int | None, option("--steps", panel=_TRAINING, metavar="NUMBER", show_default="1000", help="Optimizer steps.")
]
BatchSize = Annotated[
    int | None,
    option("--batch-size", panel=_TRAINING, metavar="NUMBER", show_default="1", help="Pictures of one forward."),
]
LearningRate = Annotated[
    float | None,
    option(
        "--learning-rate", panel=_TRAINING, metavar="NUMBER", show_default="that of the optimizer",
        help="The size of the steps.",
    ),
]  # fmt: skip
Size = Annotated[
    int | None,
    option(
        "--size", panel=_DATA, metavar="PIXELS", show_default="that of the model",
        help="Pixels a side at which pictures are read.",
    ),
]  # fmt: skip
Strict = Annotated[
    bool, typer.Option("--strict", rich_help_panel=_DATA, help="Stop at a broken picture, in place of skipping it.")
]
TrainSeed = Annotated[
    int | None,
    option(
        "--seed", panel=_TRAINING, metavar="NUMBER", show_default="0",
        help="Seed of the order of pictures and of all random numbers.",
    ),
]  # fmt: skip
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", rich_help_panel=_OUTPUT,
        help="Train two steps without keeping them, and print steps, memory, seconds a step, and what is cached.",
    ),
]  # fmt: skip
Started = Annotated[
    str, typer.Argument(metavar="FOLDER", help="The output folder of a training that was stopped.", show_default=False)
]
