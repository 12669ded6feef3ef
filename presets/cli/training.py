"""`sfumato train`: train adapters, embeddings, control nets and models on pictures, and go on with a training."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from .messages import CommandError, is_first_process, print_json, print_text, reported_errors
from .options import Debug, Device, Json
from .train_options import (
    BatchSize,
    Data,
    DryRun,
    LearningRate,
    ListSettings,
    SettingsFile,
    Size,
    Started,
    Steps,
    Strict,
    TrainModel,
    TrainOutput,
    TrainSeed,
    TrainSetting,
)  # fmt: skip

METHODS: Mapping[str, str] = {
    "lora": "Train a LoRA or a relative (kind=dora, loha, lokr …): a style, an object, a way to draw.",
    "dreambooth": "Train a new subject from a few pictures, with pictures of its class beside them.",
    "embedding": "Train a new word (textual inversion), alone or with a LoRA.",
    "controlnet": "Train a control net: pictures that guide the drawing.",
    "t2i_adapter": "Train a T2I-Adapter: a smaller net that guides the drawing.",
    "ip_adapter": "Train an IP-Adapter: pictures as prompts.",
    "lcm": "Distil a model that draws in 1 to 8 steps (LCM).",
    "lcm_lora": "Distil a LoRA that draws in 1 to 8 steps (LCM-LoRA).",
    "finetune": "Train all weights of the denoiser, and of the text encoders.",
    "unconditional": "Train a model that draws without a prompt.",
    "decoder": "Train the decoder of the autoencoder.",
}
"""All methods, by the name of their command, and the first line of its help."""

app = typer.Typer()


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    """Train adapters and models on your pictures."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _command(method: str) -> Callable[..., None]:
    def command(
        data: Data = "",
        output: TrainOutput = "trained",
        model: TrainModel = "emoji",
        steps: Steps = None,
        batch_size: BatchSize = None,
        learning_rate: LearningRate = None,
        size: Size = None,
        seed: TrainSeed = None,
        settings: TrainSetting = None,
        settings_file: SettingsFile = None,
        device: Device = None,
        strict: Strict = False,
        list_settings: ListSettings = False,
        dry_run: DryRun = False,
        json: Json = False,
        debug: Debug = False,
    ) -> None:
        plain = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "size": size, "seed": seed}
        plain |= {"device": device, "strict": strict or None}
        with reported_errors(as_json=json, debug=debug):
            if list_settings:
                _list(method, as_json=json)
                return
            if not data:
                raise CommandError(f"DATA is missing. Pass a folder of pictures: sfumato train {method} FOLDER")
            given = _settings({name: value for name, value in plain.items() if value is not None}, settings or [])
            values = {**_read(settings_file), **given}
            if dry_run:
                _plan(method, data, model, output, values, as_json=json)
                return
            from ..training.train import train  # takes seconds

            _report(train(method, data=data, model=model, output=output, **values), Path(output), as_json=json)

    command.__doc__ = f"{METHODS[method]}\n\nExample: sfumato train {method} pictures -o {method} --steps 500"
    return command


for _name in METHODS:
    app.command(_name)(_command(_name))


@app.command()
def resume(
    folder: Started, settings: TrainSetting = None, steps: Steps = None, json: Json = False, debug: Debug = False
) -> None:
    """Go on with a training that was stopped, from its newest checkpoint.

    Example: sfumato train resume trained --steps 2000
    """
    with reported_errors(as_json=json, debug=debug):
        from ..training.train import resume_training  # takes seconds

        changes = _settings({} if steps is None else {"steps": steps}, settings or [])
        _report(resume_training(folder, **changes), Path(folder), as_json=json)


# ------------------------------------------------------------------------------------------------ settings
def _settings(plain: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:  # Any: values of settings
    """The options that are set, and the NAME=VALUE texts of `--set`."""
    found = dict(plain)
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise CommandError(f"--set {text!r}: has no value. Write --set NAME=VALUE.")
        if name in found:
            raise CommandError(f"--set {text!r}: {name} is set twice. Remove one.")
        found[name] = value_of(value)
    return found


def value_of(text: str) -> Any:  # a value of TOML
    """The value that a text is in TOML; a text that is none is itself.

    >>> [value_of(text) for text in ("16", "1e-4", "true", "[1, 2]", "adamw", "{name = 'cosine'}")]
    [16, 0.0001, True, [1, 2], 'adamw', {'name': 'cosine'}]
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read(file: str | None) -> dict[str, Any]:
    from ..training.settings import read_settings

    return {} if file is None else read_settings(file)


def _list(method: str, *, as_json: bool) -> None:
    """Print the settings of a method with their types and defaults."""
    from ..training.listing import listed_settings  # takes seconds

    rows = listed_settings(method)
    if as_json:
        print_json([asdict(one) for one in rows])
        return
    width = max(len(one.name) for one in rows)
    defaults = [f" = {one.default}" if one.default else " (required)" for one in rows]
    print_text(*(f"{one.name:<{width}}  {one.type}{default}" for one, default in zip(rows, defaults, strict=True)))


# ------------------------------------------------------------------------------------------------ results
def _plan(method: str, data: str, model: str, output: str, values: Mapping[str, Any], *, as_json: bool) -> None:
    from ..training.train import plan_training

    plan = plan_training(method, data=data, model=model, output=output, **values)
    if as_json:
        print_json({**asdict(plan), "seconds": plan.seconds})
    else:
        print_text(*str(plan).splitlines())


def _report(result: Any, folder: Path, *, as_json: bool) -> None:  # an adapter, an embedding, models
    """Print what was made, once."""
    if not is_first_process():
        return
    files = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    made = [str(path) for path in files] or [str(folder)]
    if as_json:
        print_json({"folder": str(folder), "files": made, "result": type(result).__name__})
        return
    print_text(*made, f"Its card is {folder / 'README.md'}.")
