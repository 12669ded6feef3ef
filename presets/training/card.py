"""The card of what was trained: how it is used, its sample pictures, the settings, and a drawing of the recipe."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from ...components.adapters.adapter import Adapter
from ...components.adapters.embedding import Embedding
from ...components.models.controlnet import ControlNetModel
from ...components.models.ip_adapter import ImagePromptAdapter
from ...components.models.t2i_adapter import T2IAdapter
from ...components.models.unet_2d_condition import UNet2DConditionModel
from ...graph import Graph
from ...registry import printable
from ..markdown import code_span, plain, table

DRAWING, CARD = "recipe.svg", "README.md"
_USES: Mapping[type, tuple[str, Mapping[str, Any]]] = {
    Adapter: ("pipe = sf.load({model!r}).with_adapters(sf.load_adapter({file!r}))", {}),
    Embedding: ("pipe = sf.load({model!r}).with_adapters(sf.load_embedding({file!r}))", {}),
    ControlNetModel: ("pipe = sf.load({model!r}, controlnet={file!r})", {"control_image": "control.png"}),
    T2IAdapter: ("pipe = sf.load({model!r}, adapter={file!r})", {"adapter_image": "control.png"}),
    ImagePromptAdapter: (
        "pipe = sf.load({model!r}, ip_adapter={file!r}, image_encoder='image_encoder')",
        {"ip_adapter_image": "picture.png"},
    ),
    UNet2DConditionModel: ("pipe = sf.load({model!r}, unet={file!r})", {}),
}
"""By the class of what was trained: the line that loads it, and the inputs that it needs."""


def write_card(
    folder: Path,
    *,
    method: str,
    model: str,
    file: Path,
    trained: object,
    recipe: Graph,
    settings: Mapping[str, Any],  # Any: plain values
    samples: Mapping[Path, str] = MappingProxyType({}),
    draws_with: Mapping[str, Any] | None = None,  # Any: inputs of the preset
) -> None:
    """Write `README.md` and a drawing of the recipe beside a trained file.

    Args:
        folder: that of the file.
        method, model: as they were passed to `sf.train`.
        file: the trained file.
        trained: what users load from it; it decides which lines of Python load it.
        recipe: the graph of a step.
        settings: those that were set.
        samples: pictures inside the folder, and their prompts.
        draws_with: further inputs of the preset, with which pictures are drawn.
    """
    (folder / DRAWING).write_text(recipe.show("svg"), encoding="utf-8")
    text = _text(folder, method, model, file, trained, settings, samples, draws_with or {})
    (folder / CARD).write_text(text, encoding="utf-8")


def _text(
    folder: Path, method: str, model: str, file: Path, trained: object, settings: Mapping[str, Any],
    samples: Mapping[Path, str], draws_with: Mapping[str, Any],
) -> str:  # fmt: skip
    import yaml  # here, since only a card writes it

    front = {"library_name": "sfumato", "base_model": model, "tags": ["sfumato", method]}
    uses = (use for kind, use in _USES.items() if isinstance(trained, kind))
    load, needed = next(uses, ("pipe = sf.load({model!r})", dict[str, Any]()))
    inputs = {"prompt": next(iter(samples.values()), "") or "…", **needed, **draws_with}
    call = ", ".join(f"{name}={value!r}" for name, value in inputs.items())
    rows = [(code_span(name), code_span(str(value))) for name, value in settings.items()]
    pictures = [f"![{plain(prompt)}]({quote(path.relative_to(folder).as_posix())})" for path, prompt in samples.items()]
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False).rstrip(), "---", "", f"# {plain(file.stem)}", "",
        f"Trained with sfumato, by the method {code_span(method)}, on {code_span(model)}.", "",
        "## Use it", "", "```python", "import sfumato as sf", "",
        printable(load.format(model=model, file=file.name)), f"pipe({call}).images[0]", "```", "",
        *(["## Sample pictures", "", *pictures, ""] if pictures else []),
        "## Settings", "", *table(("setting", "value"), rows), "",
        "## The recipe", "", f"![The graph of a training step]({DRAWING})", "",
    ]  # fmt: skip
    return "\n".join(lines)
