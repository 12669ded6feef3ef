"""Pickles of blocks and graphs: they have settings, specs of components and files of adapters, and never weights.

So a graph can be sent to another process, which reads the weights itself.
"""

import sys
from collections.abc import Mapping
from typing import Any

from .code import HUB
from .errors import GraphError


def refuse_weights(components: Mapping[str, Any]) -> None:
    """Raise GraphError for a component that is a model in memory. Those that a manager loads pickle as their specs."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    for name, value in components.items():
        if isinstance(value, torch.nn.Module):
            raise GraphError(
                f"{name}: a pickle has no weights, and this {type(value).__name__} was bound as an object. Save it "
                "with save_pretrained(folder), and bind sf.load_component(folder) in its place."
            )


def refuse_code_of_others(cls: type) -> None:
    """Raise GraphError for a block whose code is in a repo: the process that reads a pickle has not trusted it."""
    if cls.__module__.partition(".")[0] == HUB:
        raise GraphError(
            f"{cls.__name__}: the code of this block is in a repo, and each process must trust it by itself. Load the "
            "graph in the other process: sf.load(…, trust_remote_code=…)."
        )
