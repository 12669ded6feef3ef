"""Hires fix: after the first pass the latents are enlarged, and a second pass draws details."""

from math import ceil
from typing import Any

from ....blocks.decode.images import DecodeLatents
from ....blocks.image.encode import EncodeImage
from ....blocks.image.resize import ResizeImages, ResizeLatents
from ....blocks.latents.start import CutSchedule, DrawNoiseLike, MakeSchedule, NoiseImage, SeedRandom
from ....blocks.prompts.loras import without_loras
from ....graph import Block, Graph, named
from ....graph.limits import limit
from .names import AUTOMATIC, split
from .report import Fate
from .sampling import with_scheduler
from .settings import Settings

_FAMILIES = ("sd", "sdxl")
_LATENT: dict[str, dict[str, Any]] = {
    "Latent": {"method": "bilinear"},
    "Latent (antialiased)": {"method": "bilinear", "antialias": True},
    "Latent (bicubic)": {"method": "bicubic"},
    "Latent (bicubic antialiased)": {"method": "bicubic", "antialias": True},
    "Latent (nearest)": {"method": "nearest"},
    "Latent (nearest-exact)": {"method": "nearest-exact"},
}
"""The upscalers that work on latents."""
_SETTINGS = ("Hires upscale", "Hires upscaler", "Hires resize", "Hires steps")


def share(kept: int, count: int) -> float:
    """The strength that keeps the last `kept` of `count` steps."""
    return ceil(kept / count * 1e6) / 1e6


def with_second_pass(settings: Settings, graph: Graph) -> Graph:
    """The graph with a second pass, as the settings say. It has the inputs `hires_steps` and `hires_strength`."""
    steps = int(settings.inputs.get("num_inference_steps", 20))
    strength = abs(settings.number("Denoising strength", float) or 0.7)
    wanted = settings.number("Hires steps", int) or steps
    factor = settings.number("Hires upscale", float) or 2.0
    resize = settings.size("Hires resize")
    latent = _LATENT.get(settings.values.get("Hires upscaler", "Latent"))
    possible = graph.preset is not None and graph.preset[0] in _FAMILIES and 0 < strength <= 1 and 0 < factor <= 8
    total = max(int(wanted / min(strength, 0.999)), wanted)
    if not possible or not 0 < total <= limit("steps"):
        for name in (*_SETTINGS, "Denoising strength"):
            settings.mark(name, "not supported", "a second pass is for Stable Diffusion 1, 2 and XL")
        return graph
    noise: Any = graph["noise"]
    size: dict[str, Any] = {} if resize is None else {"width": resize[0], "height": resize[1]}
    if latent is not None:
        sides = {name: side // noise.factor for name, side in size.items()}
        enlarge: dict[str, Block] = {"enlarge": ResizeLatents(factor=factor, **sides, **latent)}
    else:
        enlarge = {
            "decode": DecodeLatents(),
            "enlarge": ResizeImages(
                rule="size" if size else "factor", number=factor, method="lanczos", multiple=noise.factor, **size
            ),
            "encode": named(EncodeImage(), pixels="images"),
        }
        settings.mark("Hires upscaler", *_fate_of_upscaler(settings.values["Hires upscaler"]))
    other = _own_scheduler(graph, settings)
    names = {} if other is None else {"scheduler": "hires_scheduler"}
    schedule = MakeSchedule(num_inference_steps=total)
    scale = settings.number("Hires CFG Scale", float)
    if has_scale := scale is not None and "guidance_scale" in graph["denoise"].signature.inputs:
        settings.inputs["hires_guidance_scale"] = scale
        settings.mark("Hires CFG Scale", "used")
    again = {**names, **({"guidance_scale": "hires_guidance_scale"} if has_scale else {})}
    loop = named(graph["denoise"], **again) if again else graph["denoise"]
    start = named(NoiseImage(), **names) if names else NoiseImage()
    nodes = {
        **_own_prompts(graph, settings),
        "random": SeedRandom(),
        **enlarge,
        "schedule": named(schedule, num_inference_steps="hires_steps", **names),
        "cut": named(CutSchedule(strength=share(wanted, total)), strength="hires_strength"),
        "noise": DrawNoiseLike(),
        **{name: graph[name] for name in ("vary", "reseed") if name in graph.nodes},
        "start": start,
        "denoise": loop,
    }
    for name in (*_SETTINGS, "Denoising strength"):
        if not settings.is_marked(name):
            settings.mark(name, "used")
    graph = graph.insert("second", Graph(nodes, outputs=("latents",)), after="denoise")
    return graph if other is None else graph.bind(hires_scheduler=other)


def _own_prompts(graph: Graph, settings: Settings) -> dict[str, Block]:
    """The nodes that encode the prompts of the second pass, of Stable Diffusion 1 and 2; none for equal prompts."""
    nodes: dict[str, Block] = {}
    for name, setting in (("positive", "Hires prompt"), ("negative", "Hires negative prompt")):
        text = settings.values.get(setting, "")
        if not text or graph.preset is None or graph.preset[0] != "sd" or f"expand_{name}" not in graph.nodes:
            continue
        port = "prompt" if name == "positive" else "negative_prompt"
        nodes[name] = named(graph[name], **{port: f"hires_{port}"})
        nodes[f"expand_{name}"] = graph[f"expand_{name}"]
        settings.inputs[f"hires_{port}"] = without_loras(text).strip()
        loras = without_loras(text) != text
        settings.mark(setting, "note" if loras else "used", "LoRAs are those of the first pass" if loras else "")
    return nodes


def _fate_of_upscaler(name: str) -> tuple[Fate, str]:
    if name == "Lanczos":
        return "used", ""
    return "not supported", "no such model is here; pixels are enlarged by Lanczos' filter"


def _own_scheduler(graph: Graph, settings: Settings) -> Any:  # a Scheduler; None for that of the first pass
    """The scheduler of the second pass."""
    own = {name: settings.values.get(name, "") for name in ("Hires sampler", "Hires schedule type")}
    if not any(value and not value.startswith("Use same") for value in own.values()):
        return None
    sampler, schedule = split(own["Hires sampler"] or settings.values.get("Sampler", ""))
    schedule = own["Hires schedule type"] or schedule or settings.values.get("Schedule type", AUTOMATIC)
    return with_scheduler(settings, graph, sampler, schedule, *own).bindings.get("scheduler")
