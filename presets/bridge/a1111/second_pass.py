"""Hires fix: after the first pass the latents are enlarged, and a second pass draws details."""

from math import ceil
from typing import Any, NamedTuple

from ....blocks.decode.images import DecodeLatents
from ....blocks.image.encode import EncodeImage
from ....blocks.image.resize import ResizeImages, ResizeLatents
from ....blocks.latents.start import CutSchedule, DrawNoiseLike, MakeSchedule, NoiseImage, SeedRandom
from ....blocks.prompts.loras import without_loras
from ....graph import Block, Graph, named
from ....graph.limits import limit
from ...load import load
from .models import file_of
from .names import AUTOMATIC, split
from .report import Fate
from .sampling import with_scheduler
from .settings import Settings
from .several import AND, CHAIN, loop_of, parts_of, refused, split_prompt, texts_of

_FAMILIES = ("sd", "sdxl")
LATENT: dict[str, dict[str, Any]] = {
    "Latent": {"method": "bilinear"},
    "Latent (antialiased)": {"method": "bilinear", "antialias": True},
    "Latent (bicubic)": {"method": "bicubic"},
    "Latent (bicubic antialiased)": {"method": "bicubic", "antialias": True},
    "Latent (nearest)": {"method": "nearest"},
    "Latent (nearest-exact)": {"method": "nearest-exact"},
}
"""The upscalers that work on latents."""
_SETTINGS = ("Hires upscale", "Hires upscaler", "Hires resize", "Hires steps")
PIXELS = {"Lanczos": "lanczos", "Nearest": "nearest"}
"""The upscalers that work on pixels without a model."""
_SAME = "Use same"
"""The beginning of a setting that is that of the first pass."""


def share(kept: int, count: int) -> float:
    """The strength that keeps the last `kept` of `count` steps."""
    return ceil(kept / count * 1e6) / 1e6


class _Own(NamedTuple):
    """The second pass's own components, by their names in the first pass. names: their names in this graph."""

    components: dict[str, Any]
    names: dict[str, str]

    def of(self, block: Block, **more: str) -> Block:
        """The block with the components and inputs of the second pass."""
        names = {name: own for name, own in self.names.items() if name in block.signature.components} | more
        return named(block, **names) if names else block


def with_second_pass(settings: Settings, graph: Graph) -> Graph:
    """The graph with a second pass, as the settings say. It has the inputs `hires_steps` and `hires_strength`."""
    steps = int(settings.inputs.get("num_inference_steps", 20))
    strength = abs(settings.number("Denoising strength", float) or 0.7)
    wanted = settings.number("Hires steps", int) or steps
    factor = settings.number("Hires upscale", float) or 2.0
    possible = graph.preset is not None and graph.preset[0] in _FAMILIES and 0 < strength <= 1 and 0 < factor <= 8
    total = max(int(wanted / min(strength, 0.999)), wanted)
    if not possible or not 0 < total <= limit("steps"):
        for name in (*_SETTINGS, "Denoising strength"):
            settings.mark(name, "not supported", "a second pass is for Stable Diffusion 1, 2 and XL")
        return graph
    enlarge = _enlarging(settings, graph, factor)
    own = _own_components(settings, graph)
    scale = settings.number("Hires CFG Scale", float)
    again: dict[str, str] = {}
    if scale is not None and "guidance_scale" in graph["denoise"].signature.inputs:
        settings.inputs["hires_guidance_scale"] = scale
        settings.mark("Hires CFG Scale", "used")
        again["guidance_scale"] = "hires_guidance_scale"
    prompts, several = _prompts(settings, graph, own)
    schedule = MakeSchedule(num_inference_steps=total)
    nodes = {
        "random": SeedRandom(),
        **enlarge,
        "schedule": own.of(schedule, num_inference_steps="hires_steps"),
        "cut": named(CutSchedule(strength=share(wanted, total)), strength="hires_strength"),
        "noise": DrawNoiseLike(),
        **{name: graph[name] for name in ("vary", "reseed") if name in graph.nodes},
        **prompts,
        "start": own.of(NoiseImage()),
        "denoise": own.of(loop_of(graph, several), **again),
    }
    for name in (*_SETTINGS, "Denoising strength"):
        if not settings.is_marked(name):
            settings.mark(name, "used")
    if "vae" in own.names:
        graph = graph.replace("decode", own.of(graph["decode"]))
    graph = graph.insert("second", Graph(nodes, outputs=("latents",)), after="denoise")
    return graph.bind({own.names[name]: bound for name, bound in own.components.items()})


def _enlarging(settings: Settings, graph: Graph, factor: float) -> dict[str, Block]:
    """The nodes that enlarge the latents of the first pass."""
    noise: Any = graph["noise"]
    resize = settings.size("Hires resize")
    size: dict[str, Any] = {} if resize is None else {"width": resize[0], "height": resize[1]}
    latent = LATENT.get(name := settings.values.get("Hires upscaler", "Latent"))
    if latent is not None:
        sides = {side: pixels // noise.factor for side, pixels in size.items()}
        return {"enlarge": ResizeLatents(factor=factor, **sides, **latent)}
    settings.mark("Hires upscaler", *_fate_of_upscaler(name))
    method: Any = PIXELS.get(name, "lanczos")
    enlarge = ResizeImages(
        rule="size" if size else "factor", number=factor, method=method, multiple=noise.factor, **size
    )
    return {"decode": DecodeLatents(), "enlarge": enlarge, "encode": named(EncodeImage(), pixels="images")}


def _fate_of_upscaler(name: str) -> tuple[Fate, str]:
    if name in PIXELS:
        return "used", ""
    return "not supported", "no such model is here; pixels are enlarged by Lanczos' filter"


# ------------------------------------------------------------------------------------------------ prompts
def _prompts(settings: Settings, graph: Graph, own: _Own) -> tuple[dict[str, Block], bool]:
    """The nodes for the prompts of the second pass, and whether several prompts make its picture.

    Prompts are encoded again if the pass has its own, or its own text encoders. Those of SDXL always are, since they
    have the size of the larger picture.
    """
    several = "part" in graph.nodes
    if "expand_positive" not in graph.nodes:
        return {}, several
    again = "sizes" in graph.nodes or any(name.startswith("text_encoder") for name in own.names)
    text, negative = (settings.values.get(name, "") for name in ("Hires prompt", "Hires negative prompt"))
    nodes: dict[str, Block] = {name: graph[name] for name in ("sizes", "score") if name in graph.nodes}
    if text or again:
        made, several = _positive(settings, graph, own, text)
        nodes |= made
    if negative or again:
        names = {"negative_prompt": "hires_negative_prompt"} if negative else {}
        nodes["negative"] = own.of(graph["negative"], **names)
        nodes |= {name: graph[name] for name in ("size_negative", "expand_negative") if name in graph.nodes}
    if negative:
        settings.inputs["hires_negative_prompt"] = without_loras(negative).strip()
        _mark_prompt(settings, "Hires negative prompt", negative)
    return nodes, several


def _positive(settings: Settings, graph: Graph, own: _Own, text: str) -> tuple[dict[str, Block], bool]:
    """The nodes that encode the prompt again, or several. text: "" for that of the first pass."""
    prompts = split_prompt(without_loras(text or settings.text.prompt).strip())
    reason, prefix = refused(graph, prompts), "hires_" if text else ""
    if text:
        settings.inputs |= {"hires_prompt": AND.sub("and", text)} if reason else texts_of(prompts, prefix)
        _mark_prompt(settings, "Hires prompt", text, reason)
    chain = {name: graph[name] for name in CHAIN if name in graph.nodes}
    chain["positive"] = named(graph["positive"], prompt=f"{prefix}prompt") if text else graph["positive"]
    several = len(prompts) > 1 and not reason
    if several:
        chain |= parts_of(graph, [one.weight for one in prompts], prefix)
    return {name: own.of(block) for name, block in chain.items()}, several


def _mark_prompt(settings: Settings, setting: str, text: str, reason: str = "") -> None:
    loras = "LoRAs are those of the first pass" if without_loras(text) != text else ""
    note = "; ".join(filter(None, [loras, reason and f"AND is read as and, since {reason}"]))
    settings.mark(setting, "note" if note else "used", note)


# ------------------------------------------------------------------------------------------------ models
def _own_components(settings: Settings, graph: Graph) -> _Own:
    """The models of its checkpoint, and its scheduler."""
    loaded = _own_checkpoint(settings, graph)
    names = ("Hires sampler", "Hires schedule type")
    own = {name: settings.values.get(name, "") for name in names}
    if loaded is None and not any(value and not value.startswith(_SAME) for value in own.values()):
        return _Own({}, {})
    sampler, schedule = split(_other(own["Hires sampler"]) or settings.values.get("Sampler", ""))
    schedule = _other(own["Hires schedule type"]) or schedule or settings.values.get("Schedule type", AUTOMATIC)
    scheduled = with_scheduler(settings, loaded or graph, sampler, schedule, *names) if sampler else loaded or graph
    components = {"scheduler": scheduled.bindings.get("scheduler")}
    if loaded is not None:
        kept = {"vae"} if settings.fate("VAE") == "used" else set[str]()
        components |= {
            name: bound for name, bound in loaded.bindings.items() if name in graph.components and name not in kept
        }
        components["scheduler"] = scheduled.bindings["scheduler"]
    components = {name: bound for name, bound in components.items() if bound is not None}
    return _Own(components, {name: f"hires_{name}" for name in components})


def _other(value: str) -> str:
    """The value of a setting; "" where it is that of the first pass."""
    return "" if value.startswith(_SAME) else value


def _own_checkpoint(settings: Settings, graph: Graph) -> Graph | None:
    """The graph of the checkpoint of the second pass; None for that of the first."""
    setting = "Hires checkpoint"
    if not _other(settings.values.get(setting, "")):
        settings.mark(setting, "used")
        return None
    file = file_of(settings, setting)
    if file.path is None:
        settings.mark(setting, "missing", f"{file.note}; that of the first pass is used")
        return None
    loaded = load(file.path, task="text2image", **settings.loading)
    if loaded.preset is None or graph.preset is None or loaded.preset[0] != graph.preset[0]:
        settings.mark(setting, "not supported", "it is of another family; that of the first pass is used")
        return None
    loras = "LoRAs are applied to the first pass alone" if graph.adapters else ""
    note = "; ".join(filter(None, [file.note, loras]))
    settings.mark(setting, "note" if note else "used", note)
    return loaded
