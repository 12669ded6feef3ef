"""The cards of an svg drawing: a node with its inputs beside it, a container with its graphs, an output."""

from dataclasses import dataclass

from ..typing import type_text
from ..wiring import INPUTS
from .primitives import (
    ACCENT,
    CARD,
    CARRIED,
    DIM,
    FAINT,
    INK,
    LINE,
    PAPER,
    TINTS,
    box,
    clipped,
    measure,
    spans,
    text_line,
    with_tooltip,
)
from .scene import Node, Part, Scene, default_of

_PAD = 14.0
_PILL = 20.0
_STEM = 20.0  # between a node and the inputs beside it


@dataclass(frozen=True)
class Card:
    """A drawn card: its size, and where lines meet it."""

    body: str
    width: float
    height: float
    left: float  # from the left side to the middle of the face
    face: float  # width of the part that lines meet
    head: float = 0.0  # distance below its top where lines end
    foot: float = 0.0  # distance below its top where lines begin


@dataclass(frozen=True)
class _Pill:
    name: str
    rest: str
    tooltip: str
    kind: str  # "required", "optional", "item", "carried", "outer"
    pinned: bool

    @property
    def width(self) -> float:
        return measure(self.name, 11, bold=self.kind == "required") + measure(self.rest, 10.5) + 20


def card_of(node: Node, scene: Scene, insides: list[tuple[str, Card]], depth: int) -> Card:
    """A node, with the inputs of the graph that it reads as pills on its left."""
    width, height, body = container(node, insides, depth) if insides else _block(node)
    pills = _pills(node, scene)
    wide = max((p.width for p in pills), default=0.0)
    tall = len(pills) * (_PILL + 4) - 4 if pills else 0.0
    side = wide + _STEM if pills else 0.0
    full = max(height, tall)
    top = (full - height) / 2 if not insides else 0.0
    first = (full - tall) / 2 if not insides else 44.0
    full = max(full, first + tall) if pills else full
    pieces = [_pill(p, wide, first + i * (_PILL + 4), (side, top, height)) for i, p in enumerate(pills)]
    pieces.append(f'<g transform="translate({side:.1f} {top:.1f})">{body}</g>')
    return Card("".join(pieces), side + width, full, side + width / 2, width - 2 * _PAD, top, top + height)


def _block(node: Node) -> tuple[float, float, str]:
    rows = _chips(node.parts)
    title = clipped(node.title, 34)
    marks = " · ".join([*(["once per loop"] if node.once else []), *(f"slot {slot}" for slot in node.slots)])
    mark = measure(marks, 9.5) + 12 if marks else 0.0
    widest = max((sum(_chip_width(p) + 5 for p in row) - 5 for row in rows), default=0.0)
    width = max(measure(node.name, 14, bold=True) + mark, measure(title, 11.5), widest, 92.0) + 2 * _PAD
    height = 48.0 + len(rows) * 22 + (2 if rows else 0)
    body = [
        box(0, 1.5, width, height, 10, fill=FAINT),
        box(0, 0, width, height, 10, fill=CARD, stroke=LINE),
        text_line(node.name, _PAD, 21, 14, bold=True),
        text_line(title, _PAD, 37, 11.5, fill=DIM),
    ]
    if marks:
        body.append(text_line(marks, width - _PAD, 20, 9.5, fill=ACCENT, anchor="end"))
    for i, row in enumerate(rows):
        x = _PAD
        for part in row:
            body.append(_chip(part, x, 46 + i * 22))
            x += _chip_width(part) + 5
    outputs = ", ".join(f"{n}: {o}" for n, o in node.block.signature.outputs.items()) or "none"
    names = "".join(f"\n{old} is called {new}" for old, new in node.renamed.items())
    slots = "".join(f"\nslot {slot}: a call can replace this block" for slot in node.slots)
    return (
        width,
        height + 2,
        with_tooltip("".join(body), f"{node.name}: {node.title}\noutputs: {outputs}{names}{slots}"),
    )


def _chips(parts: tuple[Part, ...]) -> list[list[Part]]:
    """Components in rows of at most 200 pixels."""
    rows: list[list[Part]] = []
    for part in parts:
        if rows and sum(_chip_width(p) + 5 for p in rows[-1]) + _chip_width(part) <= 210:
            rows[-1].append(part)
        else:
            rows.append([part])
    return rows


def _chip_width(part: Part) -> float:
    return measure(part.name, 10.5) + 16


def _chip(part: Part, x: float, y: float) -> str:
    fill, ink = (INK, CARD) if part.held else (CARD, INK)
    drawn = box(x, y, _chip_width(part), 17, 8.5, fill=fill, stroke=INK) + text_line(
        part.name, x + _chip_width(part) / 2, y + 12.2, 10.5, fill=ink, anchor="middle"
    )
    state = f"bound: {part.held}" if part.held else "not bound" if part.required else "not bound, optional"
    return with_tooltip(drawn, f"component {part.name}: {part.type} ({state})")


def container(node: Node, insides: list[tuple[str, Card]], depth: int) -> tuple[float, float, str]:
    """A tinted box with a title, around the graphs inside a node."""
    tint = TINTS[depth % len(TINTS)]
    title, rest = node.name, clipped(f" · {node.title}", 70)
    heading = measure(title, 14, bold=True) + measure(rest, 11.5) + 2 * _PAD
    inner = sum(card.width for _, card in insides) + 2 * _PAD * len(insides)
    width = max(heading, inner + 2 * 6)
    labelled = any(label for label, _ in insides)
    top = 44.0 + (20 if labelled else 0)
    height = top + max(card.height for _, card in insides) + 20
    body = [
        box(0, 0, width, height, 14, fill=tint, stroke=LINE),
        spans([(title, INK, 14, True), (rest, DIM, 11.5, False)], _PAD, 25),
    ]
    x = (width - inner) / 2
    for label, card in insides:
        if labelled:
            body.append(box(x + 4, 38, card.width + 2 * _PAD - 8, height - 46, 10, fill=PAPER, stroke=FAINT))
            body.append(text_line(label, x + _PAD, 56, 11.5, bold=True, fill=ACCENT))
        body.append(f'<g transform="translate({x + _PAD:.1f} {top:.1f})">{card.body}</g>')
        x += card.width + 2 * _PAD
    return width, height, "".join(body)


def _pills(node: Node, scene: Scene) -> list[_Pill]:
    found: list[_Pill] = []
    for e in scene.edges:
        if e.taker != node.name or e.giver != INPUTS:
            continue
        label = e.output if e.output == e.input else f"{e.output} → {e.input}"
        port = scene.graph.inputs[e.output]
        tooltip = f"input {e.output}: {type_text(port.type)}"
        if not scene.top:
            kind = "item" if e.output == scene.each else "carried" if e.output in scene.carried else "outer"
            origin = {"item": "one each turn", "carried": "carried from turn to turn", "outer": "from the outer graph"}
            rest = " carried" if kind == "carried" else ""
            found.append(_Pill(label, rest, f"{tooltip} ({origin[kind]})", kind, e.pinned))
        else:
            default = default_of(port, 16)
            kind = "optional" if default else "required"
            rest = f" = {clipped(default, 18)}" if default else ""
            tooltip += f" = {default}" if default else ""
            found.append(_Pill(label, rest, tooltip, kind, e.pinned))
    return found


def _pill(pill: _Pill, wide: float, y: float, node: tuple[float, float, float]) -> str:
    """One pill and its line to the node. All pills of a node are aligned on the right."""
    x = wide - pill.width
    colours = {
        "required": (ACCENT, ACCENT, "#ffffff"), "optional": (CARD, LINE, INK), "item": ("#f6e3da", ACCENT, INK),
        "carried": (*CARRIED, INK), "outer": (CARD, FAINT, DIM),
    }  # fmt: skip
    fill, stroke, ink = colours[pill.kind]
    bold = pill.kind == "required"
    side, top, height = node
    mid = y + _PILL / 2
    to = min(max(mid, top + 14), top + height - 14)
    dash = ' stroke-dasharray="4 3"' if pill.pinned else ""
    bend = (side - wide) / 2
    line = (
        f'<path d="M{wide:.1f} {mid:.1f}C{wide + bend:.1f} {mid:.1f} {side - bend:.1f} {to:.1f} {side:.1f} {to:.1f}" '
        f'fill="none" stroke="{stroke if stroke != FAINT else LINE}" stroke-width="1.2"{dash}/>'
    )
    drawn = box(x, y, pill.width, _PILL, _PILL / 2, fill=fill, stroke=stroke)
    drawn += spans([(pill.name, ink, 11, bold), (pill.rest, DIM, 10.5, False)], x + pill.width / 2, y + 14, "middle")
    return with_tooltip(line + drawn, pill.tooltip + (" (pinned)" if pill.pinned else ""))


def output_pill(name: str, scene: Scene) -> Card:
    """An output of the graph, at its end."""
    kind = type_text(scene.graph.outputs[name].type)
    carried = name in scene.carried
    rest = " carried" if carried else "" if kind.lower() == name.lower() else f" {clipped(kind, 26)}"
    width = measure(name, 12, bold=True) + measure(rest, 10.5) + 26
    fill, stroke = CARRIED if carried else (INK, INK)
    ink, dim = (INK, DIM) if carried else ("#ffffff", "#c9c5bb")
    body = box(0, 0, width, 26, 13, fill=fill, stroke=stroke)
    body += spans([(name, ink, 12, True), (rest, dim, 10.5, False)], width / 2, 17.5, "middle")
    tooltip = f"output {name}: {kind}" + (", carried into the next turn" if carried else "")
    return Card(with_tooltip(body, tooltip), width, 26, width / 2, width - 26, 0, 26)
