"""A graph as a self-contained svg: layers from top to bottom, containers as tinted boxes."""

from dataclasses import dataclass

from ..structure import Structure
from ..wiring import INPUTS
from .cards import Card, card_of, output_pill
from .layout import Layout, Link, Size, place
from .primitives import (
    ACCENT,
    CARD,
    DIM,
    FAINT,
    FONT,
    INK,
    LINE,
    PAPER,
    Span,
    box,
    clipped,
    curve,
    measure,
    spans,
    text_line,
    type_colour,
    with_tooltip,
    xml_text,
)
from .scene import Scene, scene_of

_MARGIN = 26.0
_LABEL = 10.5
_ROW = 14.0  # of labels


def svg(graph: Structure) -> str:
    """The drawing. Tooltips show types and classes; `<title>` and `<desc>` are for screen readers."""
    from .text import text

    scene = scene_of(graph)
    sheet = _sheet(scene, 0)
    name = " · ".join(graph.preset) if graph.preset else "graph"
    outputs = ", ".join(graph.outputs) or "none"
    summary = f"{len(graph.nodes)} nodes, {len(graph.components)} components, outputs: {outputs}"
    legend = _legend()
    width = max(sheet.width, measure(name, 19, bold=True) + measure(summary, 11.5) + 30, legend[1]) + 2 * _MARGIN
    height = sheet.height + 104
    shift = (width - sheet.width) / 2
    head = text_line(name, _MARGIN, 38, 19, bold=True) + text_line(
        summary, width - _MARGIN, 37, 11.5, fill=DIM, anchor="end"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" '
        f'font-family="{FONT}">'
        f"<title>{xml_text(f'sfumato graph {name}: {summary}')}</title><desc>{xml_text(text(graph))}</desc>"
        f"{box(0.5, 0.5, width - 1, height - 1, 14, fill=PAPER, stroke=FAINT)}{head}"
        f'<g transform="translate({shift:.1f} 58)">{sheet.body}</g>'
        f'<g transform="translate({_MARGIN} {height - 22:.1f})">{legend[0]}</g></svg>\n'
    )


@dataclass(frozen=True)
class _Line:
    """All edges from one node to another: one line, whose label has a row for each edge."""

    source: str
    target: str
    rows: tuple[tuple[str, str], ...]  # name and type of each edge
    pinned: bool


def _sheet(scene: Scene, depth: int) -> Card:
    """A whole graph as one card."""
    cards = {node.name: card_of(node, scene, [_inside(i.scene, i.label, depth) for i in node.insides], depth)
             for node in scene.nodes}  # fmt: skip
    ends = {f"->{name}": output_pill(name, scene) for name in scene.outputs}
    lines = _lines(scene)
    links = [Link(line.source, line.target, *_label_size(line)) for line in lines]
    links += [Link(node, f"->{name}") for name, node in scene.outputs.items()]
    sizes = {name: Size(c.left, c.width - c.left, c.height, c.face) for name, c in (cards | ends).items()}
    plan = place(sizes, links, ends)
    pieces = [_stroke(plan, i, line, cards, ends) for i, line in enumerate(lines)]
    pieces += [_stroke(plan, len(lines) + i, None, cards, ends, link) for i, link in enumerate(links[len(lines) :])]
    pieces += [_label(line, plan.labels[i]) for i, line in enumerate(lines)]
    for name, card in (cards | ends).items():
        x, top = plan.boxes[name][0] - card.left, _top(plan, name, card)
        pieces.append(f'<g transform="translate({x:.1f} {top:.1f})">{card.body}</g>')
    return Card("".join(pieces), plan.width, plan.height, plan.width / 2, 0)


def _inside(scene: Scene, label: str, depth: int) -> tuple[str, Card]:
    return label, _sheet(scene, depth + 1)


def _top(plan: Layout, name: str, card: Card) -> float:
    return plan.bands[name][0]


def _lines(scene: Scene) -> list[_Line]:
    found: dict[tuple[str, str, bool], list[tuple[str, str]]] = {}
    for e in scene.edges:
        if e.giver != INPUTS:
            label = e.output if e.output == e.input else f"{e.output} → {e.input}"
            found.setdefault((e.giver, e.taker, e.pinned), []).append((label, scene.type_of(e)))
    return [_Line(giver, taker, tuple(rows), pinned) for (giver, taker, pinned), rows in found.items()]


def _label_spans(name: str, kind: str) -> list[Span]:
    """One row of a label. The type is left out if it equals the name."""
    if name.replace("_", "").lower() == kind.replace("_", "").lower():
        return [(name, type_colour(kind), _LABEL, False)]
    return [(name, type_colour(kind), _LABEL, False), (f" {clipped(kind, 26)}", DIM, _LABEL, False)]


def _label_size(line: _Line) -> tuple[float, float]:
    widest = max(sum(measure(text, size) for text, _, size, _ in _label_spans(*row)) for row in line.rows)
    return widest, _ROW * len(line.rows)


def _label(line: _Line, at: tuple[float, float]) -> str:
    width, height = _label_size(line)
    x, y = at
    back = box(x - width / 2, y - height / 2, width, height, 5, fill=CARD, opacity=0.8)
    rows = [spans(_label_spans(*row), x, y - height / 2 + _ROW * i + 10.5, "middle") for i, row in enumerate(line.rows)]
    return f"<g>{back}{''.join(rows)}</g>"


def _stroke(
    plan: Layout, i: int, line: _Line | None, cards: dict[str, Card], ends: dict[str, Card], link: Link | None = None
) -> str:
    points = list(plan.routes[i])
    source, target = (line.source, line.target) if line else (link.source, link.target) if link else ("", "")
    card = cards[source]
    start = (points[0][0], _top(plan, source, card) + card.foot)
    reader = (cards | ends)[target]
    end = (points[-1][0], points[-1][1] + reader.head)
    kinds = {kind for _, kind in line.rows} if line else set[str]()
    colour = type_colour(next(iter(kinds))) if len(kinds) == 1 else LINE
    dash = ' stroke-dasharray="6 4"' if line and line.pinned else ""
    x, y = end
    arrow = f'<path d="M{x - 4:.1f} {y - 7:.1f}L{x:.1f} {y - 0.5:.1f}L{x + 4:.1f} {y - 7:.1f}Z" fill="{colour}"/>'
    path = curve([start, *points, (x, y - 5)])
    drawn = f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-opacity="0.85"{dash}/>{arrow}'
    edges = ", ".join(f"{name}: {kind}" for name, kind in line.rows) if line else target[2:]
    return with_tooltip(drawn, f"{source} -> {target.removeprefix('->')}: {edges}{' (pinned)' if dash else ''}")


def _legend() -> tuple[str, float]:
    """The legend, in one line, and its width."""
    x, pieces = 0.0, list[str]()
    for sign, text in (("full", "component, bound"), ("hollow", "not bound"), ("dash", "pinned edge"),
                       ("required", "input"), ("optional", "input with a default")):  # fmt: skip
        if sign == "dash":
            pieces.append(f'<path d="M{x:.1f} -4h22" stroke="{LINE}" stroke-width="1.6" stroke-dasharray="6 4"/>')
        elif sign in ("full", "hollow"):
            fill = INK if sign == "full" else CARD
            pieces.append(box(x, -10, 22, 12, 6, fill=fill, stroke=INK))
        else:
            fill, stroke = (ACCENT, ACCENT) if sign == "required" else (CARD, LINE)
            pieces.append(box(x, -10, 22, 12, 6, fill=fill, stroke=stroke))
        pieces.append(text_line(text, x + 28, 0, 10.5, fill=DIM))
        x += 28 + measure(text, 10.5) + 18
    return "".join(pieces), x
