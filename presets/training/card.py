"""The card of what was trained: how it is used, its sample pictures, the settings, and a drawing of the recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...components.adapters.adapter import Adapter
from ...components.adapters.embedding import Embedding
from ...graph import Graph
from ...registry import printable
from ..markdown import code_span, plain, table

DRAWING, CARD = "recipe.svg", "README.md"
_USES = {
    Adapter: "pipe = sf.load({model!r}).with_adapters(sf.load_adapter({file!r}))",
    Embedding: "pipe = sf.load({model!r}).with_adapters(sf.load_embedding({file!r}))",
}


def write_card(
    folder: Path,
    *,
    method: str,
    model: str,
    file: Path,
    trained: object,
    recipe: Graph,
    settings: Mapping[str, Any],  # Any: plain values
    samples: Sequence[Path] = (),
    prompt: str = "",
) -> None:
    """Write `README.md` and a drawing of the recipe beside a trained file.

    Args:
        folder: that of the file.
        method, model: as they were passed to `sf.train`.
        file: the trained file.
        trained: what users load from it; it decides which lines of Python load it.
        recipe: the graph of a step.
        settings: those that were set.
        samples: pictures inside the folder.
        prompt: that of the first sample.
    """
    (folder / DRAWING).write_text(recipe.show("svg"), encoding="utf-8")
    (folder / CARD).write_text(_text(folder, method, model, file, trained, settings, samples, prompt), encoding="utf-8")


def _text(
    folder: Path, method: str, model: str, file: Path, trained: object, settings: Mapping[str, Any],
    samples: Sequence[Path], prompt: str,
) -> str:  # fmt: skip
    import yaml  # here, since only a card writes it

    front = {"library_name": "sfumato", "base_model": model, "tags": ["sfumato", method]}
    use = next((line for kind, line in _USES.items() if isinstance(trained, kind)), "pipe = sf.load({model!r})")
    rows = [(code_span(name), code_span(str(value))) for name, value in settings.items()]
    pictures = [f"![{plain(prompt)}]({quote(path.relative_to(folder).as_posix())})" for path in samples]
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False).rstrip(), "---", "", f"# {plain(file.stem)}", "",
        f"Trained with sfumato, by the method {code_span(method)}, on {code_span(model)}.", "",
        "## Use it", "", "```python", "import sfumato as sf", "",
        printable(use.format(model=model, file=file.name)), f"pipe({prompt or '…'!r}).images[0]", "```", "",
        *(["## Sample pictures", "", *pictures, ""] if pictures else []),
        "## Settings", "", *table(("setting", "value"), rows), "",
        "## The recipe", "", f"![The graph of a training step]({DRAWING})", "",
    ]  # fmt: skip
    return "\n".join(lines)
