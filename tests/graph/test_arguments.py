"""Arguments in the wrong order or of the wrong kind are refused in one sentence, by whatever a user calls."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from sfumato.graph import Graph, WireError, named

from .fakes import MakeX, XToY

GRAPH: Any = Graph(make=MakeX(), double=XToY(), outputs=("y",))  # Any: the calls are wrong on purpose
make: Any = Graph

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a block for a path": (
        lambda: GRAPH.replace(MakeX(), "make"),
        "replace  needs str as path, got MakeX(…). Write graph.replace(path, block).",
    ),
    "a text for a block": (
        lambda: GRAPH.replace("make", "double"),
        "make  is str, not a block. Subclass Block and write its __call__.",
    ),
    "a block for a name": (
        lambda: GRAPH.insert(MakeX(), "more"),
        "insert  needs str as name, got MakeX(…). Write graph.insert(name, block).",
    ),
    "a block for a place": (
        lambda: GRAPH.insert("more", MakeX(), before=MakeX()),
        "insert  needs str | None as before, got MakeX(…). Write graph.insert(name, block).",
    ),
    "a text for outputs": (
        lambda: GRAPH.insert("more", MakeX(), outputs="x"),
        "insert  needs Sequence[str] as outputs, got 'x'. Write graph.insert(name, block).",
    ),
    "a number for a node": (
        lambda: GRAPH.rename(3, "x"),
        "rename  needs str as path, got 3. Write graph.rename(path, name).",
    ),
    "nothing for a node": (
        lambda: GRAPH.remove(None),
        "remove  needs str as path, got None. Write graph.remove(path).",
    ),
    "a number for a wire": (
        lambda: GRAPH.wire("double.x", 3),
        "wire  needs str | None as source, got 3. Write graph.wire(target, source).",
    ),
    "a list of outputs": (
        lambda: GRAPH.only(["y"]),
        "only  needs str as outputs, got ['y']. Write graph.only(*outputs).",
    ),
    "a number of components": (
        lambda: GRAPH.bind(3),
        "bind  needs Mapping[str, Any] | None as components, got 3. Write graph.bind(**more).",
    ),
    "a number for a graph": (
        lambda: GRAPH.diff(3),
        "diff  needs Structure as other, got 3. Write graph.diff(other).",
    ),
    "a number for a port": (
        lambda: GRAPH.explain(3),
        "explain  needs str as port, got 3. Write graph.explain(port).",
    ),
    "a text to rename": (
        lambda: named("make"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  on purpose
        "named  needs a block, got 'make'. Write named(block, old='new').",
    ),
    "a number for a new name": (
        lambda: named(MakeX(), x=3),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  on purpose
        "x  needs a name for 'x', got 3. Write named(block, x='new').",
    ),
    "a list of nodes": (
        lambda: make([MakeX()]),
        "nodes  needs Mapping[str, Any] | None, got [MakeX(…)]. Write Graph(name=block, …).",
    ),
    "a list of slots": (
        lambda: make(make=MakeX(), slots=["make"]),
        "slots  needs Mapping[str, Any] | None, got ['make']. Write slots={'guider': ['denoise.guider']}.",
    ),
    "a number of outputs": (
        lambda: make(make=MakeX(), outputs=3),
        "outputs  needs Iterable[Any], got 3. Write outputs=('images',).",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_argument_of_the_wrong_kind_is_refused(what: str) -> None:
    call, text = WRONG[what]
    with pytest.raises(WireError, match=re.escape(text).replace(r"\(…\)", r"\(.*\)") + "$"):
        call()


def test_right_arguments_pass_by_place_and_by_name() -> None:
    assert GRAPH.rename(path="make", name="first").wire("double.x", None) == GRAPH.rename("make", "first")
    assert GRAPH.only("x", "y").declared == ("x", "y")
    assert Graph({"make": MakeX()}, outputs=iter(["x"])).declared == ("x",)
