"""The parts of a written text beyond the first pass: variations, merged tokens, the second pass, the refiner."""

from collections.abc import Mapping
from math import floor
from typing import Any

from ....blocks.control.taps import ApplyTap
from ....blocks.image.resize import ResizeImages, ResizeLatents
from ....blocks.latents.seeds import ReseedRandom
from ....components.handle import Handle
from ....components.taps.merging import TokenMerging
from ....graph import Block, Graph
from ....graph.structure import Structure
from .names import names_of
from .second_pass import LATENT, PIXELS
from .several import prompts_of


def further_settings(graph: Structure, values: Mapping[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, without those that A1111 takes by default. numbers: the values of a row that are numbers."""
    made: dict[str, Any] = {}
    if "vary" in graph.nodes and numbers.get("variation_strength"):
        made["Variation seed"] = numbers.get("variation_seed")
        made["Variation seed strength"] = numbers["variation_strength"]
    if isinstance(graph.nodes.get("reseed"), ReseedRandom):
        made["ENSD"] = numbers.get("seed_delta") or None
    merge = _node(graph, "denoise", "merge")
    if isinstance(merge, ApplyTap) and isinstance(merge.change, TokenMerging):
        made["Token merging ratio"] = merge.change.ratio
    if "refine" in graph.nodes:
        made["Refiner switch at"] = numbers.get("denoising_end")
    second = graph.nodes.get("second")
    return made | _second_pass(graph, second, values, numbers) if isinstance(second, Graph) else made


def _second_pass(
    graph: Structure, second: Graph, values: Mapping[str, Any], numbers: Mapping[str, Any]
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if numbers.get("width") and numbers.get("height"):  # of the first pass
        made["Size"] = f"{numbers['width']}x{numbers['height']}"
    total, strength = numbers.get("hires_steps"), numbers.get("hires_strength")
    if total and strength:
        kept = max(floor(total * strength), 1)
        made["Denoising strength"] = floor(kept / total * 1e6) / 1e6
        made["Hires steps"] = kept
    enlarge: Any = second.nodes.get("enlarge")
    if isinstance(enlarge, ResizeLatents):
        own = {"method": enlarge.method, **({"antialias": True} if enlarge.antialias else {})}
        made["Hires upscaler"] = next((name for name, keys in LATENT.items() if keys == own), None)
        cells = getattr(graph.nodes.get("noise"), "factor", 8)
        made |= _size(enlarge.width * cells, enlarge.height * cells, enlarge.factor)
    elif isinstance(enlarge, ResizeImages):
        made["Hires upscaler"] = next((name for name, method in PIXELS.items() if method == enlarge.method), None)
        made |= _size(enlarge.width, enlarge.height, enlarge.number)
    made["Hires CFG Scale"] = numbers.get("hires_guidance_scale")
    made["Hires prompt"] = prompts_of(second, values, "hires_")
    made["Hires negative prompt"] = values.get("hires_negative_prompt")
    if (own := graph.bindings.get("hires_scheduler")) is not None:
        made["Hires sampler"], made["Hires schedule type"] = names_of(_loaded(own))
    return made


def _size(width: int, height: int, factor: float) -> dict[str, Any]:
    return {"Hires resize": f"{width}x{height}"} if width and height else {"Hires upscale": factor}


def _node(graph: Structure, *path: str) -> Block | None:
    """The block at a path; None if there is none."""
    found: Any = graph
    for name in path:
        inner: Any = getattr(found, "body", found)
        found = getattr(inner, "nodes", {}).get(name)
    return found


def _loaded(scheduler: Any) -> Any:  # a Scheduler, or a handle of one
    return scheduler.load() if isinstance(scheduler, Handle) else scheduler
