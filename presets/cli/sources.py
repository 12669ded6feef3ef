"""The graph that a command works on: of a preset, a folder, a repo, a weight file or a graph file."""

import gc
import os
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .messages import CommandError
from .trust import ANY_CODE

DEFAULT_MODEL = "emoji"
"""The model that runs where none is named. It is included in this package."""


class Repo(NamedTuple):
    """The options that say which files of a model are taken, and whether its code may run."""

    trust: str | None = None
    revision: str | None = None
    variant: str | None = None
    folders: tuple[str, ...] = ()
    """Folders that a graph file or an index may name."""


@contextmanager
def paused_garbage_collection() -> Generator[None]:
    """Do not collect garbage during imports: their objects stay, and collection is a tenth of torch's import time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def own_device(device: str | None) -> str | None:
    """The device of this process: of several on one machine, which torchrun numbers, each has a CUDA device."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def open_pipeline(
    model: str | None,
    task: str | None,
    graph: str | None,
    names: Collection[str],
    device: str | None,
    dtype: str | None,
    repo: Repo = Repo(),
    budget: str | None = None,
) -> Any:  # a Graph
    """The graph to run: of the task, or of the first task whose inputs have these names.

    Refuses a graph without the output `images`, and one that lacks components.
    """
    from ...graph.run_order import unbound
    from ...graph.tasks import graph_for

    manager = make_manager(device, dtype, budget)
    if graph is not None and task is not None:
        raise CommandError("--task chooses a graph of the model's family, and --graph replaces it. Pass only one.")
    if graph is not None:
        pipe = _read_file(graph, manager, repo)
        if model is not None:
            pipe = open_graph(model, manager=manager, graph=pipe, repo=repo)
    else:
        pipe = open_graph(model or DEFAULT_MODEL, task, manager=manager, repo=repo)
        if task is None:
            pipe = graph_for(pipe, names)
    if "images" not in pipe.outputs:
        raise CommandError(
            f"{graph or model}: has no output 'images', which sfumato run writes. It has: {', '.join(pipe.outputs)}."
        )
    if lacking := unbound(pipe, ("images",)).keys() - names:
        raise CommandError(
            f"{graph or model}: has no {', '.join(sorted(lacking))}. "
            "Pass --model: an included model (listed by: sfumato presets), or the folder or Hub repo of a checkpoint."
        )
    return pipe


def make_manager(
    device: str | None, dtype: str | None, budget: str | None = None
) -> Any:  # a ComponentsManager; importing its class takes torch
    """A manager for this process. Refuses a device that torch cannot use."""
    import torch

    from ...components.manager import ComponentsManager

    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            available = [
                "cpu", *(["cuda"] if torch.cuda.is_available() else []),
                *(["mps"] if torch.backends.mps.is_available() else []),
            ]  # fmt: skip
            reason = str(error).strip().splitlines()[0]
            reason = reason if len(reason) < 100 else "torch has no such device"
            text = f"--device {device}: cannot be used ({reason}). Available: {', '.join(available)}."
            raise CommandError(text) from error
    return ComponentsManager(budget, device=device or "cpu", dtype=dtype or "float32")


def open_graph(
    x: str, task: str | None = None, *, manager: Any = None, graph: Any = None, repo: Repo = Repo()
) -> Any:  # a Graph
    """The graph of `x`, or `graph` with the components of `x`. Code of the model runs only where it is trusted.

    Without a task it is text2image, or the first task that the denoiser can draw.
    """
    from ...components.storage.hub import Access
    from ...graph.errors import LoadError
    from ...graph.tasks import AUTO, task_of
    from ..load import load

    path = Path(x).expanduser()
    if path.is_file() and path.suffix == ".json":
        if graph is not None or task is not None:
            raise CommandError(f"{x}: is a graph file. --task and --graph go with a preset or a checkpoint.")
        return _read_file(x, manager, repo)
    settings: dict[str, Any] = {
        "graph": graph, "manager": manager, "revision": repo.revision, "variant": repo.variant,
        "access": Access(folders=repo.folders), "trust_remote_code": repo.trust == ANY_CODE or repo.trust or False,
    }  # fmt: skip
    try:
        return load(x, task or "text2image", **settings)
    except LoadError:
        if task is not None:
            raise
        made = load(x, AUTO, **settings)  # raises the same error, if the task was not the reason
        return made.task(task_of(made))


def _read_file(x: str, manager: Any, repo: Repo) -> Any:  # a Graph
    from ...graph import Graph
    from ...graph.files import load
    from ...graph.files.forms import FILE_NAME
    from ...graph.files.reading import read_form

    path = Path(x).expanduser()
    if path.name == FILE_NAME and read_form(path).auto_map:
        return open_graph(str(path.absolute().parent), manager=manager, repo=repo)
    return load(Graph, path, manager, allowed=repo.folders)
