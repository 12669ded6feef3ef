"""The sampler of a text, its numbers, and its noise."""

from ....blocks.latents.seeds import ReseedRandom, VaryNoise
from ....graph import Graph, SfumatoError
from .names import AUTOMATIC, NEAREST, NEAREST_SCHEDULE, SAMPLERS, SCHEDULES, split
from .report import Fate
from .settings import Settings


def with_sampler(settings: Settings, graph: Graph) -> Graph:
    """The graph with the scheduler that the text names."""
    name = settings.values.get("Sampler")
    if name is None or "scheduler" not in graph.components:
        return graph
    if settings.is_civitai_flux:
        settings.mark("Sampler", "note", "Civitai writes it for Flux: Euler with the schedule Simple")
        return _using(settings, graph, "euler", "simple", "Sampler")
    sampler, schedule = split(name)
    schedule = settings.values.get("Schedule type", schedule or AUTOMATIC)
    return with_scheduler(settings, graph, sampler, schedule, "Sampler", "Schedule type")


def with_scheduler(
    settings: Settings, graph: Graph, sampler: str, schedule: str, setting: str, of_schedule: str
) -> Graph:
    """The graph with the scheduler of a sampler and a schedule; the settings are those that name them."""
    known = SAMPLERS.get(sampler)
    if known is None and (nearest := NEAREST.get(sampler)) is not None:
        settings.mark(setting, "not supported", f"the sampler is not here; the nearest, {nearest}, is used")
        known = SAMPLERS[nearest]
    if known is None:
        settings.mark(setting, "not supported", "the sampler is not known; that of the checkpoint is used")
        settings.mark(of_schedule, "not supported", "it goes with the sampler")
        return graph
    fate: Fate = "used"
    text = ""
    if (other := NEAREST_SCHEDULE.get(schedule)) is not None:
        fate, text, schedule = "not supported", f"the schedule is not here; the nearest, {other}, is used", other
    curve = known.automatic if schedule == AUTOMATIC else SCHEDULES.get(schedule)
    if schedule == AUTOMATIC and _is_flow(graph):
        curve = "simple"
    if curve == "align_your_steps":
        curve = f"{curve}_xl" if graph.preset is not None and graph.preset[0] == "sdxl" else curve
        if fate == "used":
            fate, text = "note", "as published; A1111 has a last step more, from the least noise to none"
    if curve is None:
        fate, text = "not supported", "the schedule is not known; that of the checkpoint is used"
    settings.mark(of_schedule, fate, text)
    return _using(settings, graph, known.name, curve or "", setting)


def _is_flow(graph: Graph) -> bool:
    return graph.preset is not None and graph.preset[0].startswith(("flux", "sd3"))


def _using(settings: Settings, graph: Graph, sampler: str, curve: str, setting: str) -> Graph:
    if not settings.is_marked(setting):
        settings.mark(setting, "used")
    if graph.bindings.get("scheduler") is None and _is_flow(graph):  # else the bound one says so
        sampler = f"flow_{sampler}"
    for name in (f"{sampler}_{curve}" if curve else sampler, sampler):
        try:
            return graph.using(scheduler=name)
        except SfumatoError as error:
            settings.mark(setting, "not supported" if name == sampler else "note", f"{name}: {error}".splitlines()[0])
    return graph


def with_numbers(settings: Settings, graph: Graph) -> Graph:
    """The graph; steps, seed, scale, size and skipped layers are inputs."""
    is_flux = graph.preset is not None and graph.preset[0].startswith("flux")
    _number(settings, graph, "Steps", "num_inference_steps", int)
    _number(settings, graph, "Seed", "seed", int)
    if is_flux and "Distilled CFG Scale" in settings.values:
        _number(settings, graph, "Distilled CFG Scale", "guidance_scale", float)
        _number(settings, graph, "CFG scale", "true_cfg_scale", float)
    else:
        _number(settings, graph, "CFG scale", "guidance_scale", float)
    if (size := settings.size("Size")) is not None and {"width", "height"} <= graph.inputs.keys():
        settings.inputs["width"], settings.inputs["height"] = size
        settings.mark("Size", "used")
    elif size is not None:
        settings.mark("Size", "note", "that of the picture to pass")
    if "Clip skip" in settings.values:
        count = settings.number("Clip skip", int)
        if "clip_skip" not in graph.inputs or settings.is_civitai_flux or (graph.preset and graph.preset[0] == "sdxl"):
            settings.mark("Clip skip", "note", "it changes nothing in this family")
        elif count is None or count < 1:
            settings.mark("Clip skip", "not supported", "it is no number of layers")
        else:
            for name in ("clip_skip", "negative_clip_skip"):
                if count > 1 and name in graph.inputs:
                    settings.inputs[name] = count - 1
            settings.mark("Clip skip", "used")
    return graph


def _number(settings: Settings, graph: Graph, setting: str, name: str, kind: type[int] | type[float]) -> None:
    if setting not in settings.values:
        return
    value = settings.number(setting, kind)
    if value is None:
        settings.mark(setting, "not supported", "it is no number")
    elif name not in graph.inputs:
        settings.mark(setting, "note" if value == 1 else "not supported", f"the family has no {name}")
    else:
        settings.inputs[name] = value
        settings.mark(setting, "used")


def with_noise(settings: Settings, graph: Graph) -> Graph:
    """The graph with the noise of a variation, and with the seed of later draws; the kind of noise is an input."""
    kind = settings.values.get("RNG", "GPU")
    if kind not in ("GPU", "NV", "CPU"):
        settings.mark("RNG", "not supported")
    elif "noise" in graph.inputs:
        settings.inputs["noise"] = "cpu" if kind == "CPU" else "gpu"
        settings.add("RNG", kind, "used", "" if "RNG" in settings.values else "the default of the program")
    strength = settings.number("Variation seed strength", float) or 0.0
    seed = settings.number("Variation seed", int)
    if "noise" in graph.nodes and seed is not None and 0 < strength <= 1:
        graph = graph.insert("vary", VaryNoise(), after="noise")
        settings.inputs |= {"variation_seed": seed, "variation_strength": strength}
        settings.mark("Variation seed", "used")
        settings.mark("Variation seed strength", "used")
    if (delta := settings.number("ENSD", int)) is not None:
        if delta and "noise" in graph.nodes:
            after = "vary" if "vary" in graph.nodes else "noise"
            graph = graph.insert("reseed", ReseedRandom(seed_delta=delta), after=after)
        settings.mark("ENSD", "used")
    return graph
