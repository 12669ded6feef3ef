"""Drawings of graphs: text for a terminal, mermaid for a page, svg for a notebook or slides."""

from ...registry import did_you_mean
from ..errors import GraphError
from ..structure import Structure

FORMS = ("text", "mermaid", "svg")


def draw(graph: Structure, form: str = "text") -> str:
    """Draw a graph as "text" (100 columns), "mermaid" (a flowchart) or "svg" (self-contained). Loads no component."""
    if form == "text":
        from .text import text

        return text(graph)
    if form == "mermaid":
        from .mermaid import mermaid

        return mermaid(graph)
    if form == "svg":
        from .svg import svg

        return svg(graph)
    raise GraphError(f"show({form!r}): no such form. {did_you_mean(str(form), FORMS)}")
