"""`AND` in a prompt: several prompts for one picture, each with a weight."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ....blocks.control.prompt_parts import AddPrompt, ComposePrompts
from ....graph import Block, Graph, named
from ....graph.limits import limit
from ....graph.named import Named
from ....graph.structure import Structure

AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"(.*?)\s*:\s*([-+]?(?:\d{1,9}\.?\d{0,20}|\.\d{1,20}))\s*", re.DOTALL)
CHAIN = ("positive", "size_positive", "expand_positive")
"""The nodes of a prompt, of those that the families have."""
_GUIDER = "denoise.guider"


class Weighted(NamedTuple):
    """A prompt, and its weight."""

    text: str
    weight: float = 1.0


def split_prompt(text: str) -> list[Weighted]:
    """The prompts that `AND` joins.

    >>> split_prompt("a fox AND a (red:1.2) cat :0.5")
    [Weighted(text='a fox', weight=1.0), Weighted(text='a (red:1.2) cat', weight=0.5)]
    """
    return [_weighted(part.strip()) for part in AND.split(text)]


def joined_prompt(prompts: Sequence[Weighted]) -> str:
    """The text that is read as these prompts."""
    if len(prompts) == 1:
        return prompts[0].text
    return " AND ".join(text if weight == 1 else f"{text} :{weight:g}" for text, weight in prompts)


def _weighted(text: str) -> Weighted:
    found = _WEIGHT.fullmatch(text)
    return Weighted(text) if found is None else Weighted(found[1].strip(), float(found[2]))


def refused(graph: Graph, prompts: Sequence[Weighted]) -> str:
    """Why the graph cannot draw one picture from these prompts; "" if it can."""
    if len(prompts) == 1:
        return ""
    if "refine" in graph.nodes:
        return "several prompts do not go with a refiner"
    if len(prompts) > limit("joined_prompts"):
        return f"there are more than {limit('joined_prompts')} prompts"
    if "expand_positive" not in graph.nodes or "negative" not in graph[_GUIDER].signature.inputs:
        return "several prompts need a family with a negative prompt"
    return ""


def port_of(number: int, prefix: str = "") -> str:
    """The name of the input for the prompt behind the `number`th AND, from 1."""
    return f"{prefix}and_prompt" if number == 1 else f"{prefix}and_prompt_{number}"


def texts_of(prompts: Sequence[Weighted], prefix: str = "") -> dict[str, str]:
    """The inputs of a call for these prompts."""
    first, *more = prompts
    return {f"{prefix}prompt": first.text} | {port_of(i, prefix): one.text for i, one in enumerate(more, 1)}


def parts_of(graph: Graph, weights: Sequence[float], prefix: str = "") -> dict[str, Block]:
    """The nodes that encode the further prompts and collect all of them; the first prompt is `positive`.

    prefix: of the names of their inputs.
    """
    nodes: dict[str, Block] = {"part": named(AddPrompt(weight=weights[0]), conditioning="positive")}
    for number, weight in enumerate(weights[1:], 1):
        port = port_of(number, prefix)
        own = f"{port.removesuffix('_prompt')}_positive"
        for name in CHAIN:
            if name in graph.nodes:
                block = graph[name]
                ports = block.signature.inputs.keys() | block.signature.outputs.keys()
                names = {"prompt": port, "positive": own}
                nodes[f"{name}_and_{number}"] = named(block, **{k: v for k, v in names.items() if k in ports})
        nodes[f"part_and_{number}"] = named(AddPrompt(weight=weight), conditioning=own)
    return nodes


def composed(graph: Graph, weights: Sequence[float]) -> Graph:
    """The graph with so many prompts. It has the inputs `and_prompt`, `and_prompt_2` …"""
    graph = graph.insert("compose", ComposePrompts(), before=_GUIDER)
    for name, block in reversed(parts_of(graph, weights).items()):
        graph = graph.insert(name, block, after="expand_positive")
    return graph


def prompts_of(graph: Structure, values: Mapping[str, Any], prefix: str = "") -> str | None:
    """The text of the prompts that a graph joins; None where it is not one text. values: of the inputs."""
    weights = [
        weight_of(block) for name, block in graph.nodes.items() if name == "part" or name.startswith("part_and_")
    ]
    names = [f"{prefix}prompt", *(port_of(number, prefix) for number in range(1, len(weights)))]
    texts = [values.get(name) for name in names]
    if not all(isinstance(text, str) for text in texts):
        return None
    return joined_prompt([Weighted(str(text), weight) for text, weight in zip(texts, weights or [1.0], strict=True)])


def weight_of(block: Block) -> float:
    """The weight of a node that adds a prompt."""
    plain = block.block if isinstance(block, Named) else block
    return plain.weight if isinstance(plain, AddPrompt) else 1.0


def loop_of(graph: Graph, several: bool) -> Block:
    """The loop of the graph, for several prompts or for one."""
    if "prompt_parts" in graph["denoise"].signature.inputs and not several:
        return graph.remove("denoise.compose")["denoise"]
    if several and "prompt_parts" not in graph["denoise"].signature.inputs:
        return graph.insert("compose", ComposePrompts(), before=_GUIDER)["denoise"]
    return graph["denoise"]
