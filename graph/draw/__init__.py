"""Drawings of graphs: text for a terminal, mermaid for a page, svg for a notebook or a talk."""

from ...registry import did_you_mean
from ..errors import GraphError
from ..structure import Structure

WAYS = ("text", "mermaid", "svg")


def draw(graph: Structure, how: str = "text") -> str:
    """The graph as "text" (100 columns), "mermaid" (a flowchart) or "svg" (self-contained). Loads nothing."""
    if how == "text":
        from .text import text

        return text(graph)
    if how == "mermaid":
        from .mermaid import mermaid

        return mermaid(graph)
    if how == "svg":
        from .svg import svg

        return svg(graph)
    raise GraphError(f"show({how!r}): no such drawing. {did_you_mean(str(how), WAYS)}")
