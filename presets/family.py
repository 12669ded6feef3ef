"""A family of presets: tasks that one set of components serves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..graph import Graph
from ..registry import UnknownName, did_you_mean

Settings = Mapping[str, Any]  # keywords of a preset function


@dataclass(frozen=True)
class Family:
    """Tasks, each a function that makes its graph, and what the configs of the components say about them.

    `settings(components)` reads sizes and channels from what is bound, so that a graph's defaults are the checkpoint's.
    """

    name: str
    classes: tuple[str, ...]
    """The pipeline classes that `model_index.json` files of this family name."""
    tasks: Mapping[str, Callable[..., Graph]]
    settings: Callable[[Mapping[str, Any]], Settings]

    def make(self, task: str, components: Mapping[str, Any], **more: Any) -> Graph:
        """The graph of a task with the settings of these components, not bound yet."""
        if task not in self.tasks:
            raise UnknownName(f"The family {self.name!r} has no task {task!r}. {did_you_mean(task, self.tasks)}")
        return self.tasks[task](**{**self.settings(components), **more})

    def sister(self, graph: Graph, task: str) -> Graph:
        """The graph of another task for the components that a graph holds."""
        return self.make(task, graph.bindings)
