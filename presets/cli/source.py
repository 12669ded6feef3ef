"""What a user names on the command line (a preset, a folder, a graph file), as a graph."""

import gc
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .telling import TRUSTED, Refused

EMOJI = "emoji"
"""The model that is run where none is named: it is inside this package."""


class Reach(NamedTuple):
    """How a checkpoint is reached: the code of it that is trusted, and which of a repo's files are taken."""

    trust: str | None = None
    revision: str | None = None
    variant: str | None = None


@contextmanager
def importing() -> Generator[None]:
    """Imports make objects that stay, so that looking for garbage among them is a tenth of torch's import in vain."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def open_pipe(
    model: str | None,
    task: str | None,
    graph: str | None,
    names: Collection[str],
    device: str | None,
    dtype: str | None,
    reach: Reach = Reach(),
) -> Any:  # a Graph
    """The graph to run: of the task that was asked for, or of the first that takes these names. Refuses one that
    gives no pictures, or that lacks components."""
    from ...graph.call import for_names
    from ...graph.plan import unbound

    manager = make_manager(device, dtype)
    if graph is not None and task is not None:
        raise Refused("--task goes with the graphs that a model's family has; a --graph is what it is. Give one.")
    if graph is not None:
        pipe = _read_file(graph, manager, reach)
        if model is not None:
            pipe = open_graph(model, manager=manager, graph=pipe, reach=reach)
    else:
        pipe = open_graph(model or EMOJI, task, manager=manager, reach=reach)
        if task is None:
            pipe = for_names(pipe, names)
    if "images" not in pipe.outputs:
        raise Refused(f"{graph or model}: gives {', '.join(pipe.outputs)}, and sfumato run writes a graph's `images`.")
    if lacking := unbound(pipe, ("images",), pipe.bindings).keys() - names:
        raise Refused(
            f"{graph or model}: brings no {', '.join(sorted(lacking))}. "
            "Give --model: a preset with a model inside (see: sfumato presets), or a checkpoint's folder."
        )
    return pipe


def make_manager(device: str | None, dtype: str | None) -> Any:  # a ComponentsManager; importing its class takes torch
    """A manager for this process. Refuses a device that is not there."""
    import torch

    from ...components.manager import ComponentsManager

    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            there = [
                "cpu", *(["cuda"] if torch.cuda.is_available() else []),
                *(["mps"] if torch.backends.mps.is_available() else []),
            ]  # fmt: skip
            reason = str(error).strip().splitlines()[0]
            reason = reason if len(reason) < 100 else "torch knows no such device"
            raise Refused(f"--device {device}: cannot be used ({reason}). There are: {', '.join(there)}.") from error
    return ComponentsManager(device=device or "cpu", dtype=dtype or "float32")


def open_graph(
    x: str, task: str | None = None, *, manager: Any = None, graph: Any = None, reach: Reach = Reach()
) -> Any:  # a Graph
    """The graph that `x` stands for, or `graph` with the components of `x`; its own code runs where it is trusted."""
    from ..load import load

    path = Path(x).expanduser()
    if path.is_file() and path.suffix == ".json":
        if graph is not None or task is not None:
            raise Refused(f"{x}: is a file with one graph. --task and --graph go with a preset or checkpoint.")
        return _read_file(x, manager, reach)
    return load(
        x, task or "text2image", graph=graph, manager=manager, revision=reach.revision, variant=reach.variant,
        trust_remote_code=reach.trust == TRUSTED or reach.trust or False,
    )  # fmt: skip


def _read_file(x: str, manager: Any, reach: Reach) -> Any:  # a Graph
    from ...graph.files import load
    from ...graph.files.reading import read_form
    from ...graph.files.shape import NAME

    path = Path(x).expanduser()
    if path.name == NAME and read_form(path).auto_map:
        return open_graph(str(path.absolute().parent), manager=manager, reach=reach)
    return load(path, manager)
