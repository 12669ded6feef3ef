"""A family of presets: tasks that one set of components serves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..graph import Block, Graph, Loop
from ..graph.binding import AUTO
from ..registry import UnknownName, did_you_mean

Settings = Mapping[str, Any]  # keywords of a preset function


def as_it_is(graph: Graph, components: Mapping[str, Any]) -> Graph:
    """The graph itself."""
    return graph


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
    attach: Callable[[Graph, Mapping[str, Any]], Graph] = as_it_is
    """Puts in the blocks of components that some checkpoints have beside those of the tasks: control nets."""
    refuses: Mapping[str, str] = field(default_factory=dict[str, str])
    """Pipeline classes of checkpoints that look like this family's and are not: what their denoiser does."""

    def make(self, task: str, components: Mapping[str, Any], **more: Any) -> Graph:
        """The graph of a task with the settings of these components, not bound yet."""
        if task == AUTO:
            return self.make(next(iter(self.tasks)), components, **more).as_preset(self.name, AUTO)
        if task not in self.tasks:
            raise UnknownName(f"The family {self.name!r} has no task {task!r}. {did_you_mean(task, self.tasks)}")
        graph = self.tasks[task](**{**self.settings(components), **more})
        return self.attach(graph, components).as_preset(self.name, task)

    def sister(self, graph: Graph, task: str) -> Graph:
        """The graph of another task for the components that a graph holds.

        Blocks that were swapped or set otherwise stay so where the tasks have the same one: a guider, a step count.
        """
        if graph.preset == (self.name, task):
            return graph
        made = self.make(task, graph.bindings)
        own = self.make(graph.preset[1], graph.bindings) if graph.preset else made
        plain, there = dict(_nodes(own)), dict(_nodes(made))
        for path, block in _nodes(graph):
            if path in plain and block != plain[path] and there.get(path) == plain[path]:
                made = made.replace(".".join(path), block)
        return made


def _nodes(block: Block, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Block]]:
    """Every node that holds no graph, with its path, as it stands in its graph."""
    if isinstance(block, Loop):
        yield from _nodes(block.body, path)
    elif isinstance(block, Graph):
        for name, child in block.nodes.items():
            yield from _nodes(child, (*path, name))
    else:
        yield path, block
