"""A family of presets: tasks that one set of components serves."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, Self

from ..graph import ConfigError, Graph
from ..graph.tasks import AUTO
from ..registry import UnknownName, did_you_mean
from .sisters import with_edits


def _with_edits_and_cache(graph: Graph, made: Graph, plain: Graph) -> Graph:
    """The graph that was made for another task, with the edits and the step cache of a graph; see `with_edits`."""
    from .caches import with_cache_of, without_cache  # it imports torch, which the list of families does not need

    return with_cache_of(graph, with_edits(made, without_cache(graph), plain))


def unchanged(graph: Graph, components: Mapping[str, Any]) -> Graph:
    """The graph itself."""
    return graph


class Settings(Protocol):
    """The settings of a family's graphs; see `presets/settings.py`."""

    def read(self, components: Mapping[str, Any]) -> Self:
        """These settings with the values of components' configs."""
        ...

    def with_index(self, keys: Mapping[str, Any]) -> Self:
        """These settings with the plain keys of an index file."""
        ...

    def unserved(self, task: str) -> str:
        """Why the denoiser cannot draw a task; "" where it can."""
        ...

    def unknown_keys(self, keys: Mapping[str, Any]) -> Mapping[str, str]:
        """Those of the plain keys that the family does not know, each with a text."""
        ...


@lru_cache(maxsize=64)
def _made(task: Callable[..., Graph], settings: Settings) -> Graph:
    """The graph of a task, which is one object for equal settings: graphs do not change."""
    return task(settings)


@dataclass(frozen=True)
class Family:
    """Tasks that one set of components serves. Each is a function that makes a graph for settings."""

    name: str
    classes: tuple[str, ...]
    """The pipeline classes that `model_index.json` files of this family name."""
    tasks: Mapping[str, Callable[..., Graph]]
    settings: Callable[[], Settings]
    """The class of the settings. Those of a checkpoint are read from its configs and its index."""
    pag_classes: tuple[str, ...] = ()
    """Those whose pipelines also guide by perturbed attention; see `with_perturbed_attention`."""
    part_classes: Mapping[str, str] = field(default_factory=dict[str, str])
    """Pipeline classes whose folders lack a denoiser, each with the only task that their components are for."""
    attach: Callable[[Graph, Mapping[str, Any]], Graph] = unchanged
    """Inserts the blocks of components that some checkpoints have besides those of the tasks: control nets."""
    config_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])  # Any: JSON
    """Config keys of components, by name. They hold for the family where the config of a checkpoint lacks them."""
    refuses: Mapping[str, str] = field(default_factory=dict[str, str])
    """Pipeline classes of relatives that cannot be loaded, each with the reason."""

    @property
    def loaded_classes(self) -> tuple[str, ...]:
        """All pipeline classes whose folders are of this family."""
        return (*self.classes, *self.pag_classes, *self.part_classes)

    def tasks_of(self, class_name: str | None) -> tuple[str, ...]:
        """The tasks that a folder of a pipeline class serves."""
        only = self.part_classes.get(class_name or "")
        return tuple(self.tasks) if only is None else (only,)

    def make(self, task: str, components: Mapping[str, Any], **index: Any) -> Graph:  # Any: JSON values
        """The graph of a task for these components, not bound yet. index: the plain keys of the checkpoint's index.

        Raises:
            UnknownName: the family has no such task.
            ConfigError: a key that the family does not know, a config that cannot be read, or a denoiser that cannot
                draw the task.
        """
        if not isinstance(task, str):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's argument
            raise UnknownName(f"A task is a name. Got {task!r}. There are: {', '.join(self.tasks)}.")
        if task == AUTO:
            first = next(iter([*self.served(components), *self.tasks]))
            return self.make(first, components, **index).as_preset(self.name, AUTO)
        if task not in self.tasks:
            raise UnknownName(f"The family {self.name!r} has no task {task!r}. {did_you_mean(task, self.tasks)}")
        settings = self.settings().read(components).with_index(index)
        if why := settings.unserved(task):
            raise ConfigError(f"The task {task!r}: {why}")
        graph = _made(self.tasks[task], settings)
        return self.attach(graph, components).as_preset(self.name, task)

    def unserved(self, task: str, components: Mapping[str, Any]) -> str:
        """Why the denoiser among these components cannot draw a task; "" where it can."""
        return self.settings().read(components).unserved(task)

    def served(self, components: Mapping[str, Any]) -> list[str]:
        """The tasks that the denoiser among these components can draw."""
        settings = self.settings().read(components)
        return [task for task in self.tasks if not settings.unserved(task)]

    def unknown_keys(self, index: Mapping[str, Any]) -> Mapping[str, str]:  # Any: JSON values
        """Those of an index's plain keys that the family does not know, each with a text that names near ones."""
        return self.settings().unknown_keys(index)

    def needed(self, names: Collection[str]) -> list[str]:
        """The names that are components of some task."""
        if not names:
            return []
        known = {name for task in self.tasks for name in self.make(task, {}).components}
        return [name for name in names if name in known]

    def sister(self, graph: Graph, task: str) -> Graph:
        """The graph of another task for the components of a graph, with the edits of that graph; see `with_edits`."""
        if graph.preset == (self.name, task):
            return graph
        made = self.make(task, graph.adapted_bindings)
        plain = self.make(graph.preset[1], graph.adapted_bindings) if graph.preset else made
        return _with_edits_and_cache(graph, made, plain)

    def refitted(self, graph: Graph, before: Graph) -> Graph:
        """A graph of this family for its components, which are other ones than in the same graph `before`."""
        assert graph.preset is not None
        task = graph.preset[1]
        made, plain = (self.make(task, one.adapted_bindings) for one in (graph, before))
        if made.nodes == plain.nodes:
            return graph
        return _with_edits_and_cache(graph, made, plain)
