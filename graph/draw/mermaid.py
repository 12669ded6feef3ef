"""A graph as a mermaid flowchart: containers are subgraphs, edges are labelled with their types."""

from collections.abc import Iterator

from ...registry import printable
from ..structure import Structure
from ..typing import type_text
from ..wiring import INPUTS
from .scene import Node, Scene, default_of, scene_of

_CODES = {"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\\": "#92;", "%": "#37;"}
_STYLES = (
    "classDef input fill:#ffffff,stroke:#b4542d,color:#23262d",
    "classDef output fill:#23262d,stroke:#23262d,color:#ffffff",
    "classDef component fill:#23262d,stroke:#23262d,color:#ffffff",
    "classDef missing fill:#ffffff,stroke:#23262d,color:#23262d,stroke-dasharray:4 3",
)


def mermaid(graph: Structure) -> str:
    """The flowchart, as GitHub, mkdocs and notebooks render it."""
    scene = scene_of(graph)
    lines = ["flowchart TB", *_graph(scene, "n", "  ")]
    parts = {part.name: part for node in _all(scene) for part in node.parts}
    marks = {True: "component", False: "missing"}
    lines += [
        f'  {at}__c_{part.name}(["{_escaped(part.name)}"]):::{marks[bool(part.held)]} -.- {at}'
        for node, at in _placed(scene, "n") for part in node.parts
    ]  # fmt: skip
    used = ["input", "output", *{marks[bool(part.held)] for part in parts.values()}]
    return "\n".join([*lines, *(f"  {style}" for style in _STYLES if style.split()[1] in used)]) + "\n"


def _escaped(text: str) -> str:
    """Text for mermaid between quotes, with its special characters escaped: "%" begins a directive there too."""
    return "".join(_CODES.get(c, c) for c in printable(text))


def _graph(scene: Scene, at: str, indent: str) -> Iterator[str]:
    for name in dict.fromkeys(e.output for e in scene.edges if e.giver == INPUTS):
        port = scene.graph.inputs[name]
        default = f" = {default_of(port)}" if scene.top and default_of(port) else ""
        yield f'{indent}{at}__in_{name}(["{_escaped(f"{name}: {type_text(port.type)}{default}")}"]):::input'
    for node in scene.nodes:
        yield from _node(node, f"{at}_{node.name}", indent)
    for name in scene.outputs:
        kind = type_text(scene.graph.outputs[name].type)
        yield f'{indent}{at}__out_{name}(["{_escaped(f"{name}: {kind}")}"]):::output'
    for e in scene.edges:
        source = f"{at}__in_{e.output}" if e.giver == INPUTS else f"{at}_{e.giver}"
        name = e.output if e.output == e.input else f"{e.output} as {e.input}"
        label = "" if e.giver == INPUTS and name == e.output else f'|"{_escaped(f"{name}: {scene.type_of(e)}")}"|'
        yield f"{indent}{source} {'-.->' if e.pinned else '-->'}{label} {at}_{e.taker}"
    for name, giver in scene.outputs.items():
        yield f"{indent}{at}_{giver} --> {at}__out_{name}"


def _node(node: Node, at: str, indent: str) -> Iterator[str]:
    if not node.insides:
        once = "<br/><i>once per loop</i>" if node.once else ""
        yield f'{indent}{at}["<b>{_escaped(node.name)}</b><br/>{_escaped(node.title)}{once}"]'
        return
    yield f'{indent}subgraph {at}["{_escaped(f"{node.name} · {node.title}")}"]'
    for inside in node.insides:
        if inside.label:
            yield f'{indent}  subgraph {at}_{inside.label}["{_escaped(inside.label)}"]'
            yield from _graph(inside.scene, f"{at}_{inside.label}", f"{indent}    ")
            yield f"{indent}  end"
        else:
            yield from _graph(inside.scene, at, f"{indent}  ")
    yield f"{indent}end"


def _placed(scene: Scene, at: str) -> Iterator[tuple[Node, str]]:
    for node in scene.nodes:
        own = f"{at}_{node.name}"
        yield node, own
        for inside in node.insides:
            yield from _placed(inside.scene, f"{own}_{inside.label}" if inside.label else own)


def _all(scene: Scene) -> Iterator[Node]:
    yield from (node for node, _ in _placed(scene, ""))
