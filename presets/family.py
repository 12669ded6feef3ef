"""A family of presets: tasks that one set of components serves."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self

from ..graph import Block, Graph
from ..graph.tasks import AUTO
from ..registry import UnknownName, did_you_mean

Path = tuple[str, ...]
Nodes = Mapping[str, Block]


def unchanged(graph: Graph, components: Mapping[str, Any]) -> Graph:
    """The graph itself."""
    return graph


class Settings(Protocol):
    """What a family's graphs depend on; see `presets/settings.py`."""

    def read(self, components: Mapping[str, Any]) -> Self:
        """These settings with what the configs of components say."""
        ...

    def with_index(self, keys: Mapping[str, Any]) -> Self:
        """These settings with the plain keys of an index file."""
        ...


@dataclass(frozen=True)
class Family:
    """Tasks that one set of components serves. Each is a function that makes a graph for settings."""

    name: str
    classes: tuple[str, ...]
    """The pipeline classes that `model_index.json` files of this family name."""
    tasks: Mapping[str, Callable[..., Graph]]
    settings: Callable[[], Settings]
    """The class of the settings. Those of a checkpoint are read from its configs and its index."""
    attach: Callable[[Graph, Mapping[str, Any]], Graph] = unchanged
    """Inserts the blocks of components that some checkpoints have besides those of the tasks: control nets."""
    refuses: Mapping[str, str] = field(default_factory=dict[str, str])
    """Pipeline classes that share components with this family, and what their denoiser does otherwise."""

    def make(self, task: str, components: Mapping[str, Any], **index: Any) -> Graph:  # Any: JSON values
        """The graph of a task for these components, not bound yet. index: the plain keys of the checkpoint's index.

        Raises:
            UnknownName: the family has no such task.
            ConfigError: a key that the family does not know, or a config that cannot be read.
        """
        if task == AUTO:
            return self.make(next(iter(self.tasks)), components, **index).as_preset(self.name, AUTO)
        if task not in self.tasks:
            raise UnknownName(f"The family {self.name!r} has no task {task!r}. {did_you_mean(task, self.tasks)}")
        graph = self.tasks[task](self.settings().read(components).with_index(index))
        return self.attach(graph, components).as_preset(self.name, task)

    def needed(self, names: Collection[str]) -> list[str]:
        """Those of these names that are components of some task."""
        if not names:
            return []
        all_of_them = {name for task in self.tasks for name in self.make(task, {}).components}
        return [name for name in names if name in all_of_them]

    def sister(self, graph: Graph, task: str) -> Graph:
        """The graph of another task for the components that a graph holds.

        What was swapped or set stays so where the tasks have the same block: a guider, a step count. Of blocks that the
        tasks set differently, what was set is taken over and the rest is the task's own. A slot is swapped as a whole.
        What was put in goes before what it stood before, and what was taken out is not there.
        """
        if graph.preset == (self.name, task):
            return graph
        made = self.make(task, graph.bindings)
        own = self.make(graph.preset[1], graph.bindings) if graph.preset else made
        now, plain = dict(_nodes(graph)), dict(_nodes(own))
        for path, block in _nodes(made):
            source = path if path in plain else _slot_mate(path, made, plain)
            if source in now and now[source] != plain[source]:
                made = made.replace(".".join(path), _kept(now[source], plain[source], block))
        return _without(_moved(made, graph, own), graph, own)


def _without(made: Graph, now: Graph, plain: Graph) -> Graph:
    """A task's graph without the nodes that a graph lacks of those that its own task makes: what reads goes first."""
    for path, there, was in reversed([*_levels(now, plain)]):
        for name in reversed([*was]):
            if name not in there and name in _holds(made, path):
                made = made.remove(".".join((*path, name)))
    return made


def _moved(made: Graph, now: Graph, plain: Graph) -> Graph:
    """A task's graph with the nodes that a graph has beside those that its own task makes.

    From the last to the first and from the inside out, since what reads must be there before what gives.
    """
    for path, there, was in reversed([*_levels(now, plain)]):
        places = list(there)
        for i, name in reversed([*enumerate(places)]):
            here = _holds(made, path)
            if name in was or not here:  # or the other task has no such graph
                continue
            if name in here:  # the other task has one of that name: a control net that the checkpoint brings
                made = made.replace(".".join((*path, name)), there[name])
                continue
            before = next((n for n in places[i + 1 :] if n in here), None)
            anchor = {"before": before} if before is not None else {"after": [*here][-1]}
            made = made.insert(name, there[name], **{side: ".".join((*path, n)) for side, n in anchor.items()})
    return made


def _holds(block: Block, path: Path) -> Nodes:
    """The nodes of the graph at a path; {} where there is none."""
    for name in path:
        children = _inside(block).children()
        if name not in children:
            return {}
        block = children[name]
    return _inside(block).children()


def _levels(now: Block, plain: Block, path: Path = ()) -> Iterator[tuple[Path, Nodes, Nodes]]:
    """The graphs that two graphs both have at a path, outermost first: what each holds."""
    there, was = _inside(now).children(), _inside(plain).children()
    if there and was:
        yield path, there, was
        for name in [n for n in there if n in was]:
            yield from _levels(there[name], was[name], (*path, name))


def _nodes(block: Block, path: Path = ()) -> Iterator[tuple[Path, Block]]:
    """Every node that holds no graph, with its path, as it stands in its graph."""
    inner = _inside(block).children()
    if not inner:
        yield path, block
    for name, child in inner.items():
        yield from _nodes(child, (*path, name))


def _inside(block: Block) -> Block:
    """What a renamed block or a loop holds; any other block itself."""
    while "" in block.children():
        block = block.children()[""]
    return block


def _slot_mate(path: Path, made: Graph, plain: Mapping[Path, Block]) -> Path:
    """Of a node that the other task has not: one that it has in the same slot; () where there is none."""
    slots = [[tuple(p.split(".")) for p in paths] for paths in made.slots.values()]
    return next((mate for paths in slots if path in paths for mate in paths if mate in plain), ())


def _kept(now: Any, plain: Any, other: Any) -> Any:  # blocks, or what their fields hold
    """What another task has, with what differs between a graph and the one that its own task makes."""
    if now == plain:
        return other
    if not all(isinstance(value, Block) for value in (now, plain, other)):
        return now
    if type(_inside(plain)) is not type(_inside(other)):
        return other
    if (type(now), type(_inside(now))) != (type(plain), type(_inside(plain))):
        return now
    names = [f.name for f in fields(now)]
    return other.with_(**{n: _kept(getattr(now, n), getattr(plain, n), getattr(other, n)) for n in names})
