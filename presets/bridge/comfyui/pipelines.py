"""The preset's graph for a workflow: loaded from the files that were found, and changed as the workflow's nodes say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....blocks.control import controlnet as unet_control
from ....blocks.control import flux as flux_control
from ....blocks.control import sd3 as sd3_control
from ....blocks.control.image_prompt import ImagePrompt
from ....blocks.control.taps import ApplyTap
from ....blocks.image.encode import EncodeImage
from ....blocks.latents.full_noise import ScaleNoiseFully
from ....blocks.latents.start import ScaleNoise
from ....blocks.text.redux import AddImagePrompt, EncodeImagePrompt
from ....blocks.text.zero import ZeroConditioning
from ....components.adapters.adapter import Adapter
from ....components.taps.change import Change
from ....components.taps.freeu import FreeU
from ....components.taps.merging import TokenMerging
from ....graph import Block, Graph, named
from ....registry import guiders
from ....registry import presets as families
from ...adapter import load_adapter
from ...control import numbered
from ...flux_tools import with_control_channels
from ...load import load
from ...settings import FluxSettings
from .files import Files
from .preset_form import Single
from .run_blocks import ScaleImageTokens
from .sampling import chosen, with_scheduler
from .values import Clip, Control, Lora, Model, ModelFile, Vae

ENCODERS: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "sd": (("text_encoder", ("",)),),
    "sdxl": (("text_encoder_2", ("clip_g", "bigg")), ("text_encoder", ("",))),
    "sd3": (("text_encoder_3", ("t5",)), ("text_encoder_2", ("clip_g", "bigg")), ("text_encoder", ("",))),
    "flux": (("text_encoder_2", ("t5",)), ("text_encoder", ("",))),
}
"""The component of each text encoder, and words in the names of its files; "" is what is left."""
CONTROL: Mapping[str, type[Block]] = {
    "sd": unet_control.ApplyControlNet,
    "sdxl": unet_control.ApplyControlNet,
    "sd3": sd3_control.ApplyControlNet,
    "flux": flux_control.ApplyControlNet,
}
_TAPS: Mapping[str, Callable[..., Change]] = {"FreeU": FreeU, "TokenMerging": TokenMerging}
_KNOBS = ("num_inference_steps", "guidance_scale", "true_cfg_scale", "guidance_rescale", "height", "width", "strength")
"""Inputs whose values in the workflow become defaults of the graph."""


def encoders_of(clip: Clip, family: str) -> dict[str, ModelFile]:
    """The files of text encoders, by component."""
    left, made = [*clip.files], dict[str, ModelFile]()
    for component, words in ENCODERS[family]:
        fitting = [file for file in left if any(word in file.name.lower() for word in words)]
        if fitting:
            made[component] = fitting[0]
            left.remove(fitting[0])
    return made


def components_of(model: Model, clip: Clip, vae: Vae | None, files: Files) -> tuple[Path | None, dict[str, Path]]:
    """The path of the checkpoint or denoiser, and of each component that another file has."""
    wanted: dict[str, ModelFile] = {}
    if clip.files != (model.file,):
        wanted |= encoders_of(clip, model.family)
    if vae is not None and vae.file != model.file:
        wanted["vae"] = vae.file
    found = {name: files.find(file) for name, file in wanted.items()}
    return files.find(model.file), {name: path for name, path in found.items() if path is not None}


def opened(
    model: Model, clip: Clip, vae: Vae | None, task: str, files: Files, settings: Mapping[str, Any], **more: Path
) -> Graph:
    """The graph of a task, with the components whose files were found; without the denoiser's file nothing is bound."""
    path, swaps = components_of(model, clip, vae, files)
    if path is None:
        return families[model.family].make(task, {})
    keywords: dict[str, Any] = {**settings, **swaps, **more}
    return load(path, task, **keywords)


def preset_graph(single: Single, files: Files, settings: Mapping[str, Any], notes: list[str]) -> Graph:
    """The graph of a workflow with one sampler."""
    model, positive, task = single.model, single.positive, single.task
    named_fill = model.family == "flux" and "fill" in model.file.name.lower()
    if task == "inpaint" and named_fill and files.find(model.file) is None:
        task = "fill"
    nets = nets_of(model, positive.controls, files)
    graph = opened(model, positive.clip, single.decoded.vae, task, files, settings, **nets)
    graph = with_nets(graph, model, positive.controls)
    if model.family == "flux" and positive.shown is not None and positive.shown.mask is None:
        graph = with_shown(graph, model, files)
    graph = _with_styles(graph, single, files, notes)
    graph = with_adapters(graph, model.family, model.loras, positive.clip.loras, files, notes)
    graph = _with_negative(graph, single)
    graph = as_comfy(graph, single.positive.clip, model)
    if single.decoded.tile:
        graph = graph.replace("decode", graph["decode"].with_(tile=single.decoded.tile))
    return sampled_by(graph, single, notes)


def nets_of(model: Model, controls: Sequence[Control], files: Files) -> dict[str, Path]:
    """The path of each control net and image prompt that was found, by component."""
    wanted = {f"controlnet{_number(i)}": control.net.file for i, control in enumerate(controls)}
    wanted |= {f"ip_adapter{_number(i)}": prompt.adapter for i, prompt in enumerate(model.prompts)}
    if model.prompts:
        wanted["image_encoder"] = model.prompts[0].vision
    found = {name: files.find(file) for name, file in wanted.items()}
    return {name: path for name, path in found.items() if path is not None}


def with_nets(graph: Graph, model: Model, controls: Sequence[Control]) -> Graph:
    """The graph with blocks for the control nets and image prompts whose files were not loaded with it."""
    blocks: dict[str, tuple[str, Block]] = {}
    for i in range(len(controls)):
        blocks[f"controlnet{_number(i)}"] = f"control{_number(i)}", numbered(CONTROL[model.family](), _number(i)[1:])
    for i in range(len(model.prompts)):
        blocks[f"ip_adapter{_number(i)}"] = f"image_prompt{_number(i)}", numbered(ImagePrompt(), _number(i)[1:])
    for component, (name, block) in blocks.items():
        if component not in graph.components:
            graph = graph.insert(name, block, before="denoise.guider")
    return graph


def _number(place: int) -> str:
    return f"_{place}" if place else ""


def as_comfy(graph: Graph, clip: Clip, model: Model) -> Graph:
    """The graph with ComfyUI's rules: the syntax of prompts, skipped layers, and the variance of the first latents."""
    defaults: dict[str, Any] = {"prompts": "comfy"}
    # SDXL reads the last layer but one in any case.
    skip = clip.skip - 1 if model.family == "sdxl" else clip.skip
    if skip > 0:
        defaults |= {"clip_skip": skip, "negative_clip_skip": skip}
    graph = graph.using(**{name: value for name, value in defaults.items() if name in graph.inputs})
    if type(graph.nodes.get("start")) is ScaleNoise:
        graph = graph.replace("start", ScaleNoiseFully())
    if "encode_image" in graph.nodes and type(graph["encode_image"]) is EncodeImage:
        graph = graph.replace("encode_image", EncodeImage(draws=False))
    return graph


def sampled_by(graph: Graph, single: Single, notes: list[str]) -> Graph:
    """The graph with the workflow's sampler, levels and guider."""
    model = single.model
    scheduler = chosen(single.stage.sampler, single.stage.sigmas, model.family)
    notes += scheduler.notes
    graph = with_scheduler(graph, "scheduler", scheduler.name, model)
    return with_taps(with_guider(graph, model), model)


def with_guider(graph: Graph, model: Model) -> Graph:
    """The graph with the guider that nodes of the workflow chose."""
    if model.guider is None:
        return graph
    name, settings = model.guider
    cls = guiders[name]
    known = {key: value for key, value in settings.items() if key in cls.__dataclass_fields__}
    return graph.using(guider=cls(**known))


def with_taps(graph: Graph, model: Model) -> Graph:
    """The graph with the changes of layers that nodes of the workflow chose."""
    for i, (name, settings) in enumerate(model.taps):
        block = ApplyTap(change=_TAPS[name](**settings))
        graph = graph.insert(f"tap{_number(i)}", block, before="denoise.guider")
    return graph


def with_defaults(graph: Graph, inputs: Mapping[str, Any]) -> Graph:
    """The graph whose settings have the workflow's values as defaults, so that `graph(prompt=…)` goes on with them."""
    return graph.using(**{name: inputs[name] for name in _KNOBS if name in inputs and name in graph.inputs})


def with_adapters(
    graph: Graph, family: str, on_model: Sequence[Lora], on_clip: Sequence[Lora], files: Files, notes: list[str]
) -> Graph:
    """The graph with the adapters whose files were found. Those of text encoders hold where the prompt has them."""
    made: list[Adapter] = []
    for lora in on_model:
        path = files.find(lora.file)
        if path is None:
            notes.append(f"the adapter {lora.file.name!r} was not found, so it is not applied")
            continue
        adapter = load_adapter(path)
        strengths = {name: lora.clip if lora in on_clip else 0.0 for name, _ in ENCODERS[family]}
        strengths |= dict.fromkeys(("unet", "transformer"), lora.model)
        known = {name: value for name, value in strengths.items() if name in graph.bindings}
        made.append(replace(adapter, by_component=known))
    if not made:
        return graph
    if not graph.bindings:
        notes.append("the adapters are not applied, since no model is bound")
        return graph
    return graph.with_adapters(*made)


def with_shown(graph: Graph, model: Model, files: Files) -> Graph:
    """The graph whose transformer reads a control picture as channels.

    Where the model or an adapter that widens it was found, its own channels decide.
    """
    found = any(map(files.find, (model.file, *(lora.file for lora in model.loras))))
    return graph if found or "control_image" in graph.inputs else with_control_channels(graph, FluxSettings())


def _with_styles(graph: Graph, single: Single, files: Files, notes: list[str]) -> Graph:
    """Tokens of pictures behind those of the prompt (Redux)."""
    if single.positive.styles:
        notes.append("Redux is not loaded from its files: bind image_encoder, feature_extractor and image_embedder")
    for i, style in enumerate(single.positive.styles):
        number = f"_{i + 1}" if i else ""
        files.want([style.net.file, style.vision.file])
        encode = named(EncodeImagePrompt(), image=f"style_image{number}", image_tokens=f"image_tokens{number}")
        scales = {"prompt_embeds_scale": f"style_scale{number}", "pooled_prompt_embeds_scale": f"pooled_scale{number}"}
        add = named(AddImagePrompt(), conditioning="positive", image_tokens=f"image_tokens{number}", **scales)
        graph = graph.insert(f"style{number}", add, before="rows")
        graph = graph.insert(f"see{number}", encode, before=f"style{number}")
        if isinstance(style.strength, int | float) and style.strength != 1:
            scale = named(ScaleImageTokens(strength=style.strength), image_tokens=f"image_tokens{number}")
            graph = graph.insert(f"scale{number}", scale, after=f"see{number}")
    return graph


def _with_negative(graph: Graph, single: Single) -> Graph:
    """Zeros in the place of the negative prompt, where the workflow has them."""
    negative = single.negative
    if negative is None or not negative.zeroed or single.stage.guider.cfg == 1 or "negative" not in graph.nodes:
        return graph
    name = "negative"
    return graph.insert("zero_negative", named(ZeroConditioning(), conditioning=name), after="negative")
