"""`sfumato adapter`: look at adapters, convert them, and make them of models and of other adapters."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from .messages import CommandError, print_json, print_text, reported_errors
from .options import (
    AdapterFile,
    AdapterFiles,
    AdapterModel,
    AdapterOutput,
    Base,
    Debug,
    Density,
    DropSeed,
    ExtractRank,
    Json,
    Layout,
    Method,
    Rank,
    Rest,
    Threshold,
    Tuned,
)  # fmt: skip
from .output import size_text

app = typer.Typer()


@app.callback(invoke_without_command=True)
def _group(context: typer.Context) -> None:
    """Look at adapters (LoRA and its relatives), convert, extract and combine them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def inspect(file: AdapterFile, json: Json = False, debug: Debug = False) -> None:
    """List the contents of an adapter: kinds of patches, ranks, components, and unusual properties."""
    with reported_errors(as_json=json, debug=debug):
        adapter = read_adapters([file])[0]
        if json:
            print_json(_data(adapter))
            return
        kinds = ", ".join(f"{count} {kind}" for kind, count in adapter.kinds.items())
        rows = {
            "patches": kinds,
            "ranks": ", ".join(map(str, adapter.ranks)) or "none",
            "components": ", ".join(adapter.components),
            "strength": f"{adapter.strength:g}",
        }
        rows |= {"notes": " ".join(adapter.notes)} if adapter.notes else {}
        print_text(adapter.name, *(f"  {name:<10}  {text}" for name, text in rows.items()))


@app.command()
def convert(
    file: AdapterFile,
    output: AdapterOutput,
    layout: Layout = "peft",
    model: AdapterModel = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write an adapter in another layout. Its strength becomes part of the file.

    Example: sfumato adapter convert style.safetensors -o style-kohya.safetensors --layout kohya
    """
    with _reported(as_json=json, debug=debug):
        _choice("--layout", layout, _LAYOUTS)
        _save(read_adapters([file])[0], output, layout, model, as_json=json)


@app.command()
def extract(
    tuned: Tuned,
    base: Base,
    output: AdapterOutput,
    rank: ExtractRank = 16,
    threshold: Threshold = 0.0,
    rest: Rest = "keep",
    layout: Layout = "kohya",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make an adapter of the differences between a trained model and its base.

    Example: sfumato adapter extract my-model sd-base -o style.safetensors --rank 32
    """
    with _reported(as_json=json, debug=debug):
        from ..adapters import extract as extracted

        made = extracted(tuned, base, rank, threshold=threshold, rest=_choice("--rest", rest, ("keep", "drop")))
        _save(made, output, layout, base, as_json=json)


@app.command()
def combine(
    files: AdapterFiles,
    output: AdapterOutput,
    method: Method = "cat",
    rank: Rank = None,
    density: Density = 0.5,
    seed: DropSeed = 0,
    layout: Layout = "peft",
    model: AdapterModel = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make one adapter of several. Each FILE:STRENGTH has its own factor.

    Example: sfumato adapter combine a.safetensors:0.7 b.safetensors:0.5 -o both.safetensors
    """
    with _reported(as_json=json, debug=debug):
        from ..adapters import combine as combined

        adapters = read_adapters(files)
        chosen: Any = method  # refused by `combine` where it is unknown
        made = combined(
            adapters, method=chosen, rank=rank, density=density, seed=seed, pipe=_graph(model),
        )  # fmt: skip
        _save(made, output, layout, model, as_json=json)


def read_adapters(texts: Sequence[str], pipe: Any = None) -> list[Any]:  # Adapters; pipe: a Graph, or None
    """The adapters that texts FILE or FILE:STRENGTH name. Those of one name, and of one in `pipe`, get numbers."""
    from ..adapter import load_adapter, numbered, split_strength

    made: list[Any] = []
    for text in texts:
        try:
            file, strength = split_strength(text)
        except ValueError as error:
            raise CommandError(str(error)) from None
        made.append(load_adapter(file, scale=strength))
    return numbered(made, () if pipe is None or pipe.adapters is None else pipe.adapters.names)


def _choice(option: str, text: str, choices: Sequence[str]) -> Any:  # one of them
    if text not in choices:
        raise CommandError(f"{option} {text}: needs {', '.join(choices[:-1])} or {choices[-1]}.")
    return text


def _graph(model: str | None) -> Any:  # a Graph, or None
    from .sources import open_graph

    return None if model is None else open_graph(model)


@contextmanager
def _reported(*, as_json: bool, debug: bool) -> Generator[None]:
    """`reported_errors`, with the option in place of the argument of Python."""
    from ...graph.errors import ConfigError

    with reported_errors(as_json=as_json, debug=debug):
        try:
            yield
        except ConfigError as error:
            python, option = "Pass pipe=, the graph", "Pass --model, the model"
            if python not in str(error):
                raise
            raise CommandError(str(error).replace(python, option)) from error


def _save(adapter: Any, output: str, layout: str, model: str | None, *, as_json: bool) -> None:
    path = adapter.save(Path(output).expanduser(), _choice("--layout", layout, _LAYOUTS), pipe=_graph(model))
    if as_json:
        print_json({"path": str(path), "bytes": path.stat().st_size, "layout": layout, **_data(adapter)})
    else:
        kinds = ", ".join(f"{count} {kind}" for kind, count in adapter.kinds.items())
        print_text(f"{path}  ({layout}, {kinds}, {size_text(path.stat().st_size)})")


_LAYOUTS = ("peft", "kohya", "comfy", "lycoris")


def _data(adapter: Any) -> dict[str, Any]:  # an Adapter; JSON values
    return {
        "name": adapter.name, "kinds": dict(adapter.kinds), "ranks": list(adapter.ranks),
        "components": list(adapter.components), "strength": adapter.strength, "notes": list(adapter.notes),
    }  # fmt: skip
