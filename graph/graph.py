"""`Graph`: named blocks in order, joined by edges. It is itself a block, and a pipeline when nothing is missing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from ..registry import codecs
from . import edits
from .analysis import digraph
from .arguments import checked_arguments
from .binding import bound, check
from .block import Block
from .call import prepare
from .compare import Diff, diff, explain
from .errors import Problem, WireError
from .no_attribute import no_attribute, no_change
from .ports import Outputs
from .run import Run
from .structure import Structure
from .swaps import using
from .tasks import sister, with_inputs_of_adapters
from .wiring import rule

if TYPE_CHECKING:
    import networkx as nx

    from .sweep import Sweep

Slots = Mapping[str, Sequence[str]]


class Graph(Structure, name="Graph"):
    """Named blocks in order: `Graph(encode=EncodePrompt(), outputs=["images"], slots={"guider": ["denoise.guider"]})`.

    `outputs` are the names that a call gives back (without them: every name's last value). `slots` are names under
    which a call may swap blocks. A graph is immutable: each edit gives a new one that shares the rest. Raises
    `WireError` with every problem at once.
    """

    def __init__(
        self,
        nodes: Mapping[str, Block] | None = None,
        /,
        *,
        outputs: Iterable[str] = (),
        slots: Slots | None = None,
        preset: tuple[str, str] | None = None,
        **more: Block,
    ) -> None:
        edits.check_parts(nodes, outputs, slots)
        blocks = {**(nodes or {}), **more}
        if bad := list(edits.bad_nodes(blocks)):
            raise WireError(bad)
        paths = {slot: tuple(paths) for slot, paths in (slots or {}).items()}
        self._fill(blocks, rule(blocks), declared=tuple(outputs), slots=paths, preset=preset)
        edits.check_made(self, blocks)

    def __repr__(self) -> str:
        return f"Graph({', '.join(f'{name}={type(block).__name__}' for name, block in self.nodes.items())})"

    if not TYPE_CHECKING:  # for a type checker, a misspelt attribute stays an error

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(no_attribute(self, name), name=name, obj=self)

    def _way_to_change(self, name: str) -> str:
        return no_change(self, name)

    # ------------------------------------------------------------------------------------------- changing
    @checked_arguments
    def replace(self, path: str, block: Block, *, outputs: Sequence[str] = ()) -> Self:
        """The same graph with another block at `path` ("decode", "denoise.guider"). `outputs` as for `insert`."""
        return edits.replaced(self, path, block, outputs)

    @checked_arguments
    def insert(
        self,
        name: str,
        block: Block,
        *,
        before: str | None = None,
        after: str | None = None,
        outputs: Sequence[str] = (),
    ) -> Self:
        """The same graph with one more block, before or after a node; a path says in which graph inside.

        `outputs` are outputs of the block that a call gives back, beside those of the graph. A slot also covers a node
        inside the block that has the name and the outputs of the slot's node.
        """
        return edits.inserted(self, name, block, before, after, outputs)

    @checked_arguments
    def remove(self, path: str) -> Self:
        """The same graph without that node: its readers take the next nearest value, or it becomes an input."""
        return edits.removed(self, path)

    @checked_arguments
    def rename(self, path: str, name: str) -> Self:
        """The same graph with another name for a node; pinned edges and slots follow."""
        return edits.renamed(self, path, name)

    @checked_arguments
    def wire(self, target: str, source: str | None) -> Self:
        """Pin an edge: `graph.wire("refine.positive", "encode.positive")`. `None` gives it back to the wiring rule.

        `"inputs.name"` as source makes the target read the graph's input `name`.
        """
        return edits.wired(self, target, source)

    @checked_arguments
    def only(self, *outputs: str) -> Self:
        """The sub-graph that gives these outputs: other blocks go, and so do the components that only they need."""
        return edits.only(self, outputs)

    def as_preset(self, family: str, task: str) -> Self:
        """The same graph, known as this task of a preset family: `task` and error texts refer to it."""
        return edits.edited(self, preset=(family, task))

    def with_children(self, children: Mapping[str, Block]) -> Self:
        """The same graph with these nodes."""
        return edits.edited(self, nodes=dict(children))

    # ------------------------------------------------------------------------------------------- components
    @checked_arguments
    def bind(self, components: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """The same graph holding these components: objects, or handles that load at their first use.

        A name ("dpmpp_2m_karras") or a config dict makes one where the component's class says how. Raises `WireError`
        for unknown names, other classes, and components that do not fit each other.
        """
        return bound(self, {**(components or {}), **more})

    def with_bindings(self, components: Mapping[str, Any]) -> Self:
        """The same graph with exactly these bindings, unchecked. Those that no block needs are for `task`."""
        return edits.edited(self, bindings=dict(components))

    def using(self, **swaps: Any) -> Self:
        """The same graph with components or slots swapped: objects, published names, or config dicts.

        A knob gets another default: `pipe.using(prompts="a1111")`. `attention=` is a backend or its name, for all
        models that can have it; a dict of these by component; or None for the default.
        """
        return using(self, swaps)

    def with_adapters(self, *adapters: Any) -> Self:
        """The same graph with these adapters on its models, beside those that it has: `sf.load_adapter` reads them.

        The models do not change. With adapters that widen a model's input, its tasks have further inputs
        (`control_image`). Raises `ConfigError` where a patch fits no matrix, with all such patches.
        """
        return with_inputs_of_adapters(codecs["attach"](self, adapters), self)

    def merged(self, dtype: Any = None) -> Self:
        """The same graph with copies of its models that have the adapters in their weights, in `dtype` or their own.

        Raises `ConfigError` for adapters that differ between prompts or steps, and for quantized models.
        """
        return codecs["merged"](self, dtype)

    def cached(self, cache: Any, *, estimate_error: bool = False, **settings: Any) -> Self:
        """The same graph, which skips layers of its denoiser in steps that differ little from those before.

        A run has one more output: `skipped`, a report of the layers that each pass of each step skipped. cache: a step
        cache of `sf.caches`, its name ("first_block"), or None for none. estimate_error: also compute the full
        predictions, and report how far the cached ones are from them. settings: of a cache that is named. Raises
        `ConfigError` for unfit settings and a graph without a guider, `WireError` for a denoiser that it does not fit.
        """
        return codecs["cached"](self, cache, settings, estimate_error)

    def optimize(self, engine: Any, components: "Sequence[str] | str | None" = None, **settings: Any) -> Self:
        """The same graph with an engine for its heavy components: "openvino", "compile", "graphs" or "max".

        engine: its name, a value of `sf.engines`, or None for none. components: their names; by default the engine
        chooses. settings: of an engine that is named. A call that it cannot run is run by torch, and
        `sf.engines.report(graph)` says why. Raises `ConfigError` for components that it cannot run, with why.
        """
        return codecs["optimized"](self, engine, components, settings)

    def parallel(self, *plans: Any) -> Self:
        """The same graph, whose denoiser several processes of torch.distributed compute together.

        plans: "guidance", "batch" and "context", or values of `sf.parallel`; None for one process. All processes make
        the graph and call it alike. Raises `ConfigError` for one process alone, and for what cannot be divided.
        """
        return codecs["parallel"](self, plans)

    def task(self, name: str) -> Self:
        """The sister graph for another task of the family, with the same components: `pipe.task("inpaint")`."""
        return sister(self, name)

    # ------------------------------------------------------------------------------------------- running
    def __call__(self, *first: Any, **values: Any) -> Outputs:
        """Run it. Keywords are inputs, components and slots; one positional value is the first input.

        Each call takes these keywords too: `adapters`, `attention`, `memo`, `on_event` (a function that gets each
        event) and `progress` (False hides the progress bar). Raises `InputError` with all problems, before it runs.
        """
        return prepare(self, first, values, progress=True).without_history().result()

    def stream(self, *first: Any, **values: Any) -> Run:
        """A run that hands out its events: `for event in (run := graph.stream(…)): …`, then `run.outputs`.

        `async for event in graph.stream(…)` runs each step in a thread, so that the event loop goes on."""
        return prepare(self, first, values)

    def start(self, *first: Any, **values: Any) -> Run:
        """A run in a thread of its own: `run.result()` waits for it, and `run.pause()` stops it."""
        return prepare(self, first, values).start()

    def plan(self, *first: Any, **values: Any) -> Any:  # a Plan of the room above
        """What a call with these values would do and need: nodes, operations, memory, downloads. It prints as a table.

        Loads no weights, and computes with shapes alone. Raises `InputError` as a call does.
        """
        return codecs["plan"](self, first, values)

    def sweep(self, *, at_once: int = 8, **values: Any) -> "Sweep":
        """Run all combinations of some values, side by side: `graph.sweep(prompt=["a fox", "a cat"], seed=range(4))`.

        Equal parts of the runs are computed once, and the rest shares forwards of the denoiser.

        Args:
            at_once: so many runs go on side by side.
            values: as of a call. Lists and ranges vary, and all else is one value for all runs. A list that is one
                value is put in another list: `prompt=[["a fox", "a cat"]]` is one run with two prompts.

        Raises:
            InputError: an empty list, equal values, a list of adapters that may mean two things; or as a call.
            ExceptionGroup: all runs failed. Where only some fail, their cells have the errors.
        """
        from .sweep import sweep  # here, since few programs sweep

        return sweep(self, values, at_once)

    # ------------------------------------------------------------------------------------------- looking
    def check(self) -> list[Problem]:
        """Everything that stands between this graph and a run: unbound components, latent spaces, missing files."""
        return check(self)

    @checked_arguments
    def diff(self, other: Structure) -> Diff:
        """The differences between this graph and `other`: nodes, edges that moved, components."""
        return diff(self, other)

    @checked_arguments
    def explain(self, port: str) -> str:
        """The source of a port's value: `graph.explain("denoise.guider.latents")`."""
        return explain(self, port)

    def digraph(self) -> "nx.MultiDiGraph[str]":
        """The graph as networkx sees it, for analysis; each edge carries its `Edge` as `edge`."""
        return digraph(self)

    @checked_arguments
    def show(self, how: str = "text") -> str:
        """The graph drawn: "text", "mermaid" or "svg"."""
        from .draw import draw  # here, since few programs draw

        return draw(self, how)

    def _repr_html_(self) -> str:
        return self.show("svg")

    # ------------------------------------------------------------------------------------------- files
    def save(self, folder: Any) -> None:
        """Write `graph.json` into a folder: nodes, config, every edge, slots, outputs, and bindings."""
        from .files import save  # here, and below, since pydantic costs start-up time

        save(self, folder)

    def save_pretrained(self, folder: Any, **more: Any) -> Any:
        """Write all of it into a folder that others load too: see `presets.save.save_pretrained`. Gives the folder."""
        return codecs["save_pretrained"](self, folder, **more)

    @classmethod
    def load(cls, folder: Any) -> Self:
        """Read a graph from a folder, or from its `graph.json`. Raises `GraphFileError`."""
        from .files import load

        return load(cls, folder)
