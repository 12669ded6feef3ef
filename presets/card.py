"""The card of a saved pipeline: what it takes and gives, a drawing, what it is made of, and how it is run."""

from collections.abc import Collection, Mapping

from ..components.spec import ComponentSpec
from ..graph import Graph
from ..graph.typing import type_text

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
    front = ["---", "library_name: sfumato"]
    front += [f"pipeline_tag: {_TAGS[task]}"] if task in _TAGS else []
    front += [f"license: {license}"] if license else []
    front += ["tags:", "- sfumato", "- modular-diffusers", *([f"- {family}"] if family else []), "---"]
    what = f"The task {task} of the family {family}" if family else "A graph of its own"
    required = [f"{port}=…" for port, made in graph.inputs.items() if made.required]
    given = "prompt='…'" if required[:1] == ["prompt=…"] else ", ".join(required)
    gives = next(iter(graph.outputs), "images")
    inputs = [
        (
            f"`{port}`",
            f"`{_cell(type_text(made.type))}`",
            "required" if made.required else f"`{_cell(repr(made.default))}`",
        )
        for port, made in graph.inputs.items()
    ]
    parts = [(f"`{n}`", spec.type_hint[1] if spec.type_hint else "", _note(spec)) for n, spec in specs.items()]
    outputs = [(f"`{port}`", f"`{_cell(type_text(made.type))}`") for port, made in graph.outputs.items()]
    trust = ", trust_remote_code=True" if code else ""
    files = ", ".join(f"[`{file}`]({file})" for file in code)
    slots = ", ".join(f"`{slot}`" for slot in graph.slots)
    lines = [
        *front, "", f"# {name.rpartition('/')[2]}", "", f"{what}, as a graph of typed blocks.", "",
        "## Run it", "", "```python", "import sfumato as sf", "", f'pipe = sf.load("{name}"{trust})',
        f"pipe({given}).{gives}{'[0]' if gives == 'images' else ''}", "```", "",
        *([f"It brings code of its own, which runs on your machine. Read it first: {files}.", ""] if code else
          [f"On a command line: `sfumato run '…' --model {name}`.", ""]),
        "## What it takes", "", *_table(("input", "type", "default"), inputs), "",
        *([f"A call may also swap {slots} and any component below.", ""] if slots else []),
        "## What it gives", "", *_table(("output", "type"), outputs), "",
        "## The graph", "", f"![The graph]({DRAWING})", "",
        "## What it is made of", "", *_table(("component", "class", "files"), parts), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _note(spec: ComponentSpec) -> str:
    return ", ".join(part for part in (spec.subfolder, spec.variant, spec.dtype) if part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [_line(head), _line(("---",) * len(head)), *map(_line, rows)]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
