"""The error texts for an attribute that a graph does not have, and for one that a user sets."""

from ..registry import HINTS, closest
from .structure import Structure


def no_change(graph: Structure, name: str) -> str:
    """Advice for `graph.name = value`: the expression that makes another graph."""
    text = "A graph does not change. Make another one:"
    if "nodes" not in vars(graph):
        return text
    if name in graph.components:
        return f"{text} pipe = pipe.bind({name}=…)."
    if name in graph.slots:
        return f"{text} pipe = pipe.using({name}=…), or pass it in a call: pipe(…, {name}=…)."
    if name in graph.inputs:
        return f"A graph does not change. Pass it in the call: pipe(…, {name}=…)."
    if name in graph.nodes:
        return f"{text} pipe = pipe.replace({name!r}, block)."
    if name == "outputs":
        return f"{text} pipe = pipe.only('images')."
    if name in HINTS:
        return f"A graph does not change. {HINTS[name]}"
    return f"{text} pipe.bind, replace, insert, remove, rename, wire, only and using do that."


def no_attribute(graph: Structure, name: str) -> str:
    """Advice for an unknown attribute: of a component, an input, an attribute of diffusers, or a misspelling.

    >>> no_attribute(Structure.of({}), "load_lora_weights")[:60]
    "A graph has no attribute 'load_lora_weights'. An adapter (Lo"
    """
    text = f"A graph has no attribute {name!r}."
    if name.startswith("_") or "nodes" not in vars(graph):  # Python looks for special names, also while a copy is made
        return text
    if name in graph.components:
        return f"{text} Write pipe.bindings[{name!r}].load() for the component, or pipe.bind({name}=…) to change it."
    if name in graph.inputs or name in graph.slots:
        return f"{text} Pass it in the call: pipe(…, {name}=…)."
    if name in graph.nodes:
        return f"{text} Write pipe[{name!r}] for the node."
    if name in HINTS:
        return f"{text} {HINTS[name]}"
    near = closest(name, [known for known in dir(type(graph)) if known[0] != "_"], 1)
    return text + (f" Did you mean {near[0]!r}?" if near else "")
