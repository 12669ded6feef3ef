"""The model of a text, the components beside it, and its refiner."""

import re
from pathlib import Path

from ....components.loading.single_file.checkpoint import component_of
from ....components.spec import ComponentSpec
from ....components.storage.hub import Access
from ....graph import Graph
from .model_files import Found
from .settings import Settings

_INPAINT = ("Mask blur", "Mask mode", "Inpaint area", "Masked content", "Masked area padding")
_MODULES = {"ae": "vae", "vae": "vae", "clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_NAMED = re.compile(r"(.*?)(?: \[([0-9a-fA-F]+)\])?")
_UNET = ("diffusers", "UNet2DConditionModel")
_SIDE_OF_SDXL = 832
"""The smallest side of a picture that SDXL is trained for, but for long ones."""


def task_of(settings: Settings) -> str:
    """The task. A strength without a second pass is that of a picture to start from."""
    if any(name in settings.values for name in _INPAINT):
        return "inpaint"
    return "image2image" if "Denoising strength" in settings.values and not settings.has_second_pass else "text2image"


def model_of(settings: Settings) -> Path | str:
    """The file or folder of the model; the name of a family where there is none."""
    name, hash = settings.values.get("Model", ""), settings.values.get("Model hash", "")
    found = settings.files.find(name, hash) if name or hash else None
    if found is None or found.path is None:
        family = family_of(settings)
        text = f"{found.note if found else 'the text names none'}; the graph is of the family {family}"
        settings.add("Model", name or hash, "missing", text)
        settings.mark("Model hash", "missing", text)
        return family
    for setting in ("Model", "Model hash"):
        settings.mark(setting, "note" if found.note else "used", found.note)
    return found.path


def family_of(settings: Settings) -> str:
    """The family that a text without its model seems to be of."""
    searched = f"{settings.values.get('Model', '')} {' '.join(settings.values)}".lower()
    if "flux" in searched or "distilled cfg scale" in searched or settings.is_civitai_flux:
        return "flux"
    if "sd3" in searched or "sd 3" in searched:
        return "sd3"
    is_large = min(settings.size("Size") or (0,)) >= _SIDE_OF_SDXL
    return "sdxl" if re.search(r"xl|pony|illustrious|noob", searched) or is_large else "sd"


def parts_of(settings: Settings) -> dict[str, str]:
    """The components that the text names beside the model: arguments of `sf.load`."""
    found: dict[str, str] = {}
    for setting, value in settings.values.items():
        if setting != "VAE" and not re.fullmatch(r"Module \d+", setting):
            continue
        if value.lower() in ("none", "automatic"):
            settings.mark(setting, "used")
            continue
        component = "vae" if setting == "VAE" else _component_of(value, settings)
        file = settings.files.find(value, settings.values.get("VAE hash", "") if setting == "VAE" else "")
        if component is None:
            settings.mark(setting, "not supported", "it is not clear which component it is")
        elif file.path is None:
            settings.mark(setting, "missing", file.note)
        else:
            found[component] = str(file.path)
            settings.mark(setting, "note" if file.note else "used", file.note)
    settings.mark("VAE hash", "used" if "vae" in found else "missing")
    return found


def _component_of(name: str, settings: Settings) -> str | None:
    """The component that a module of Forge is, by the customary names of files."""
    name = name.lower()
    if name.startswith("t5"):
        return "text_encoder_3" if family_of(settings) == "sd3" else "text_encoder_2"
    return next((component for begin, component in _MODULES.items() if name.startswith(begin)), None)


def file_of(settings: Settings, setting: str) -> Found:
    """The checkpoint that a setting names: `name`, or `name [hash]`."""
    named = _NAMED.fullmatch(settings.values[setting])
    return Found(None, "it names no file") if named is None else settings.files.find(named[1], named[2] or "")


def with_refiner(settings: Settings, graph: Graph) -> Graph:
    """The graph with the refiner of SDXL behind the base."""
    if "Refiner" not in settings.values:
        return graph
    switch = settings.number("Refiner switch at", float) or 0.8
    if graph.preset != ("sdxl", "text2image") or settings.has_second_pass or not 0 < switch < 1:
        for name in ("Refiner", "Refiner switch at"):
            settings.mark(name, "not supported", "a refiner goes with SDXL, without a second pass")
        return graph
    file = file_of(settings, "Refiner")
    if file.path is None:
        settings.mark("Refiner", "missing", file.note)
        return graph
    settings.inputs["denoising_end"] = switch
    settings.mark("Refiner", "note" if file.note else "used", file.note)
    settings.mark("Refiner switch at", "used")
    if file.path.is_file():
        spec = component_of(file.path, Access(), _UNET, "")
    else:
        spec = ComponentSpec(type_hint=_UNET, pretrained_model_name_or_path=str(file.path), subfolder="unet")
    return graph.task("refined").bind(refiner=spec)
