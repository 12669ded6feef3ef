"""The card of a saved pipeline: what it takes and gives, a drawing, what it is made of, and how it is run.

Names in it come from files too. Each is escaped for the language in which it is used: YAML, Markdown, Python, a shell.
"""

import shlex
from collections.abc import Collection, Mapping
from keyword import iskeyword
from urllib.parse import quote

from ..components.spec import ComponentSpec
from ..graph import Graph
from ..graph.typing import type_text
from ..registry import printable
from .markdown import code_span, plain, table

DRAWING = "graph.svg"
_TAGS = {"text2image": "text-to-image", "image2image": "image-to-image", "inpaint": "image-to-image"}


def card(
    graph: Graph,
    name: str,
    specs: Mapping[str, ComponentSpec],
    license: str | None = None,
    code: Collection[str] = (),
) -> str:
    """A README.md with the front matter that the Hub reads. `name` is what `sf.load` takes, `code` are the files of its
    blocks."""
    family, task = graph.preset or (None, None)
    what = f"The task {plain(task)} of the family {plain(family)}" if family and task else "A graph of its own"
    inputs = [
        (
            code_span(port),
            code_span(type_text(made.type)),
            "required" if made.required else code_span(repr(made.default)),
        )
        for port, made in graph.inputs.items()
    ]
    parts = [
        (code_span(n), code_span(spec.type_hint[1] if spec.type_hint else ""), _note(spec)) for n, spec in specs.items()
    ]
    outputs = [(code_span(port), code_span(type_text(made.type))) for port, made in graph.outputs.items()]
    files = ", ".join(f"[{code_span(file)}]({quote(printable(file))})" for file in code)
    slots = ", ".join(map(code_span, graph.slots))
    lines = [
        "---", _front(family, task, license), "---", "", f"# {plain(name.rpartition('/')[2])}", "",
        f"{what}, as a graph of typed blocks.", "",
        "## Run it", "", "```python", *_sample(graph, name, trusted=bool(code)), "```", "",
        *([f"It brings code of its own, which runs on your machine. Read it first: {files}.", ""] if code else
          ["On a command line: " + code_span(f"sfumato run '…' --model {shlex.quote(printable(name))}") + ".", ""]),
        "## What it takes", "", *table(("input", "type", "default"), inputs), "",
        *([f"A call may also swap {slots} and any component below.", ""] if slots else []),
        "## What it gives", "", *table(("output", "type"), outputs), "",
        "## The graph", "", f"![The graph]({DRAWING})", "",
        "## What it is made of", "", *table(("component", "class", "files"), parts), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _front(family: str | None, task: str | None, license: str | None) -> str:
    """The front matter, as YAML."""
    import yaml  # here, since only a save writes it

    front: dict[str, object] = {"library_name": "sfumato"}
    if task in _TAGS:
        front["pipeline_tag"] = _TAGS[task]
    if license:
        front["license"] = license
    front["tags"] = ["sfumato", "modular-diffusers", *([family] if family else [])]
    return yaml.safe_dump(front, sort_keys=False).rstrip()


def _sample(graph: Graph, name: str, *, trusted: bool) -> list[str]:
    """A program that loads and runs the graph."""
    required = [port for port, made in graph.inputs.items() if made.required]
    given = ", ".join(map(_argument, required))
    gives = next(iter(graph.outputs), "images")
    value = f'["{gives}"]' if iskeyword(gives) else f".{gives}{'[0]' if gives == 'images' else ''}"
    load = f"sf.load({_literal(name)}{', trust_remote_code=True' if trusted else ''})"
    return ["import sfumato as sf", "", f"pipe = {load}", f"pipe({given}){value}"]


def _argument(port: str) -> str:
    value = '"…"' if port == "prompt" else "..."
    return f'**{{"{port}": {value}}}' if iskeyword(port) else f"{port}={value}"


def _literal(text: str) -> str:
    """A text in Python, between double quotes where it has none."""
    shown = repr(text)
    return shown if '"' in text or "'" in text else f'"{shown[1:-1]}"'


def _note(spec: ComponentSpec) -> str:
    shown = ", ".join(part for part in (spec.subfolder, spec.variant, spec.dtype) if part)
    return code_span(shown) if shown else ""
