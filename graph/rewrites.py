"""The rewrites that a call makes: each takes the graph and the call, and gives the graph that the call needs.

What a rewrite makes is kept on the graph, so that the same call costs a look-up the next time.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ..registry import attention_backends, codecs
from .analysis import sole_makers
from .cache import cached
from .edits import edited
from .errors import ConfigError, InputError, Problem, UnfitValue
from .keywords import ADAPTERS, ATTENTION, Call
from .run_order import run_order
from .simplify import with_simpler_blocks
from .structure import Structure
from .swaps import overlay
from .tasks import with_inputs_of_adapters
from .wiring import INPUTS, last_givers

Rewrite = Callable[[Structure, Call], Structure]


def swap(graph: Structure, call: Call) -> Structure:
    """Swap the components and slots that the call passes."""
    return overlay(graph, call.swaps)


def adapt(graph: Structure, call: Call) -> Structure:
    """Attach the adapters that the call passes, or set the strengths of those that the graph has."""
    if call.adapters is None:
        return graph
    try:
        return cached(graph, "adapted", lambda: _adapted(graph, call.adapters), _frozen(call.adapters))
    except ConfigError as error:
        raise InputError(Problem("adapters", ADAPTERS, str(error).removeprefix(f"{ADAPTERS}: "))) from error


def attend(graph: Structure, call: Call) -> Structure:
    """Set the backend of attention that the call passes."""
    if call.attention is None:
        return graph
    key = _frozen(call.attention), attention_backends.replaced
    try:
        return cached(graph, "attended", lambda: codecs["attended"](graph, call.attention), key)
    except ConfigError as error:
        raise InputError(Problem("attention", ATTENTION, str(error).removeprefix(f"{ATTENTION}: "))) from error


def adapt_by_prompts(graph: Structure, call: Call) -> Structure:
    """Attach the adapters that the prompts of the call name."""
    _check_prompts(graph, call.values)
    if any(map(_may_name_adapters, call.values.values())):
        try:
            graph = with_inputs_of_adapters(codecs["adapt_by_prompts"](graph, call.values), graph)
        except (ConfigError, UnfitValue) as error:
            raise InputError(Problem("adapters", "prompt", str(error))) from error
    return graph


def _adapted(graph: Structure, adapters: Any) -> Structure:  # Any: what a call passes
    return with_inputs_of_adapters(codecs["adapt"](graph, adapters), graph)


def _check_prompts(graph: Structure, values: Mapping[str, Any]) -> None:  # Any: values of a call
    """InputError where adapters for single prompts are passed with another number of prompts."""
    lists = 1 if graph.adapters is None else graph.adapters.prompts
    if lists == 1:
        return
    prompt, positive = values.get("prompt"), values.get("positive")
    if prompt is not None:
        count = len(cast("Sequence[Any]", prompt)) if isinstance(prompt, list | tuple) else 1
        if count != lists:
            text = f"has lists for {lists} prompts, and prompt has {count}. Pass one list for each prompt."
            raise InputError(Problem("adapters", ADAPTERS, text))
    elif (rows := getattr(positive, "rows", lists)) % lists:
        text = f"has lists for {lists} prompts, and positive has {rows} rows. Pass one list for each prompt."
        raise InputError(Problem("adapters", ADAPTERS, text))


def _may_name_adapters(value: Any) -> bool:  # Any: a value of a call
    """Whether a value is a text like "a fox <lora:style:0.8>", or a list with one."""
    if isinstance(value, list | tuple):
        return any(isinstance(text, str) and "<l" in text for text in cast("Sequence[Any]", value))
    return isinstance(value, str) and "<l" in value


def _frozen(value: Any) -> Hashable:
    """A key for the value of `adapters=`. Values of other kinds, which are refused, get the same key."""
    if isinstance(value, Mapping):
        return tuple((name, _frozen(part)) for name, part in cast("Mapping[Any, Any]", value).items())
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, cast("Sequence[Any]", value)))
    return value if isinstance(value, Hashable) else None


def use_values(graph: Structure, call: Call) -> Structure:
    """Take out nodes whose outputs the call passes: `latents=`, `positive=`.

    The value replaces the node that makes it. Where the call lacks inputs for the nodes that change it later, and needs
    none of them without these nodes, the value replaces them too: `latents=` alone is decoded.
    """
    makers = sole_makers(graph)
    names = tuple(name for name in call.values if name not in graph.inputs and name in makers)
    if not names:
        return graph

    def without(gone: set[str], kind: str) -> Structure:
        return pruned(cached(graph, kind, lambda: _without(graph, gone, names), names))

    plain = without({makers[name] for name in names}, "without makers")
    if not _lacking(plain, call):
        return plain
    givers = {node for node, block in graph.nodes.items() if not block.signature.outputs.keys().isdisjoint(names)}
    last = without(givers, "without givers")
    enough = not _lacking(last, call) and all(name in last.inputs for name in call.values)
    return last if enough else plain


def _lacking(graph: Structure, call: Call) -> bool:
    """Whether the graph requires an input that the call does not pass."""
    return any(port.required and name not in call.values for name, port in graph.inputs.items())


def _without(graph: Structure, gone: set[str], names: tuple[str, ...]) -> Structure:
    """The graph without these nodes. Their outputs of these names become inputs."""
    pinned = [
        replace(e, giver=INPUTS) if e.giver in gone else e
        for e in graph.pinned if e.taker not in gone and (e.giver not in gone or e.output in names)
    ]  # fmt: skip
    nodes = {n: b for n, b in graph.nodes.items() if n not in gone}
    left = last_givers(nodes)
    declared = tuple(n for n in graph.declared if n in left)
    return edited(graph, nodes=nodes, pinned=pinned, slots={}, declared=declared)


def prune(graph: Structure, call: Call) -> Structure:
    """Take out nodes whose outputs have no reader, so that the graph needs no more than the run uses."""
    return pruned(graph)


def pruned(graph: Structure) -> Structure:
    """The graph without nodes whose outputs have no reader."""
    smaller = cached(graph, "pruned", lambda: _pruned(graph))
    return graph if smaller is None else smaller


def _pruned(graph: Structure) -> Structure | None:  # None: all runs, and nothing is to be kept
    runs = {line.name for line in run_order(graph, graph.wanted).lines}
    if len(runs) == len(graph.nodes):
        return None
    nodes = {n: b for n, b in graph.nodes.items() if n in runs}
    return edited(graph, nodes=nodes, pinned=[e for e in graph.pinned if e.taker in runs], slots={})


def simplify(graph: Structure, call: Call) -> Structure:
    """Put simpler blocks where the call's values allow them."""
    return with_simpler_blocks(graph, call.values)
