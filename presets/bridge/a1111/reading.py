"""From the settings of a text to a graph and inputs: one change after another."""

import re
from collections.abc import Callable, Mapping

from ....blocks.control.taps import ApplyTap
from ....components.taps.merging import TokenMerging
from ....graph import Graph
from .models import task_of, with_refiner
from .prompts import with_prompts
from .sampling import with_noise, with_numbers, with_sampler
from .second_pass import share, with_second_pass
from .settings import Settings

_VERSION = re.compile(r"v?(\d+)\.(\d+)")
_EDIT = re.compile(r"\[[^\[\]:]*:[^\[\]]*\]")


def with_start(settings: Settings, graph: Graph) -> Graph:
    """The picture that the run starts from, or its second pass."""
    if settings.has_second_pass:
        return with_second_pass(settings, graph)
    steps, strength = (
        settings.inputs.get("num_inference_steps"),
        settings.number("Denoising strength", float),
    )
    if strength is None:
        return graph
    settings.add("picture", settings.values.get("Init image hash", ""), "missing", "pass image=")
    if "strength" in graph.inputs and isinstance(steps, int) and 0 <= strength <= 1:
        settings.inputs["strength"] = min(1.0, share(int(min(strength, 0.999) * steps) + 1, steps))
        settings.mark("Denoising strength", "used")
    if task_of(settings) == "inpaint":
        settings.add("mask", "", "missing", "pass mask_image=")
        if settings.values.get("Inpaint area", "") == "Only masked":
            settings.inputs["padding_mask_crop"] = settings.number("Masked area padding", int) or 32
            settings.mark("Inpaint area", "used")
            settings.mark("Masked area padding", "used")
        for name, value in (("Mask blur", "0"), ("Masked content", "original"), ("Inpaint area", "Whole picture")):
            if settings.values.get(name) == value:
                settings.mark(name, "used")
    return graph


def with_merging(settings: Settings, graph: Graph) -> Graph:
    """The graph with merged tokens."""
    ratio = settings.number("Token merging ratio", float)
    if ratio is not None and 0 <= ratio < 1 and "unet" in graph.components:
        if ratio:
            graph = graph.insert("merge", ApplyTap(change=TokenMerging(ratio=ratio)), before="denoise.guider")
        settings.mark("Token merging ratio", "used")
    return graph


def with_rules(settings: Settings, graph: Graph) -> Graph:
    """The graph; rules of old versions that change a picture and are not here are noted."""
    found = _VERSION.match(settings.values.get("Version", ""))
    version = (int(found[1]), int(found[2])) if found else None
    if version is None or "sfumato" in settings.values.get("Version", "") or version >= (1, 8):
        return graph
    prompts = f"{settings.text.prompt} {settings.text.negative}"
    rules: Mapping[tuple[int, int], tuple[str, bool]] = {
        (1, 6): (
            "changes of a prompt over the steps count those of both passes",
            settings.has_second_pass and bool(_EDIT.search(prompts)),
        ),
        (1, 7): ("noise levels were rounded to half precision", True),
        (1, 8): ("the refiner began at a share of the steps, not of the noise", "Refiner" in settings.values),
    }
    texts = [text for number, (text, here) in rules.items() if version < number and here]
    if texts:
        settings.mark("Version", "note", "; ".join(texts))
    return graph


CHANGES: tuple[Callable[[Settings, Graph], Graph], ...] = (
    with_refiner, with_prompts, with_sampler, with_numbers, with_noise, with_start, with_merging, with_rules,
)  # fmt: skip
"""All of them, in this order."""
