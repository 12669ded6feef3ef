"""`sf.to_comfyui`: a preset's graph as a workflow in ComfyUI's API format."""

from collections.abc import Iterator, Mapping
from math import isclose, log
from pathlib import Path
from typing import Any

from ....blocks.control import controlnet as unet_control
from ....blocks.control import flux as flux_control
from ....blocks.control import sd3 as sd3_control
from ....blocks.decode.images import DecodeLatents, FinishImages
from ....blocks.denoise import flux as flux_denoise
from ....blocks.denoise import sd3 as sd3_denoise
from ....blocks.denoise.advance import AdvanceLatents
from ....blocks.denoise.unet import PredictNoise
from ....blocks.guiders.cfg import ClassifierFreeGuidance
from ....blocks.guiders.none import NoGuidance
from ....blocks.image.encode import EncodeImage
from ....blocks.image.read import ReadImage
from ....blocks.latents import denoising_range, flow, parts, start
from ....blocks.latents.full_noise import ScaleNoiseFully
from ....blocks.text import flux as flux_text
from ....blocks.text import rows as rows
from ....blocks.text import sd as sd_text
from ....blocks.text import sd3 as sd3_text
from ....blocks.text import sdxl as sdxl_text
from ....blocks.text.micro_conditioning import AddSizes, ChooseSizes
from ....blocks.text.zero import ZeroConditioning
from ....components.adapters.attached import AttachedAdapters
from ....components.handle import Handle
from ....components.schedulers.base import Scheduler
from ....graph import Block, ConfigError, Graph, GraphError
from ....graph.paths import blocks_inside, without_names
from ....registry import counted
from .sampling import SHIFT
from .unwritten import unwritten_adapters, unwritten_fields, unwritten_inputs
from .workflow import Link, Node, Workflow

_COVERED: frozenset[type[Block]] = frozenset({
    sd_text.EncodePrompt, sdxl_text.EncodePrompt, sd3_text.EncodePrompt, sd3_text.EncodePromptWithoutT5,
    flux_text.EncodePrompt, rows.MatchNegative, rows.ExpandRows, sdxl_text.MatchNegative, sd3_text.MatchNegative,
    flux_text.MatchNegative, AddSizes, ChooseSizes, ZeroConditioning, start.CountRows, start.SeedRandom,
    start.DrawNoise, start.DrawNoiseLike, start.MakeSchedule, start.CutSchedule, start.ScaleNoise, start.NoiseImage,
    ScaleNoiseFully, parts.KeepSeed, parts.BeginPart, parts.EndPart, denoising_range.BeginSchedule,
    denoising_range.DrawNoiseToBegin,
    denoising_range.ContinueOrNoise, flow.MakeSchedule, flow.CutSchedule, PredictNoise, flux_denoise.PredictFlow,
    sd3_denoise.PredictFlow, ClassifierFreeGuidance, NoGuidance, AdvanceLatents, DecodeLatents, FinishImages,
    EncodeImage, ReadImage, unet_control.ApplyControlNet, sd3_control.ApplyControlNet, flux_control.ApplyControlNet,
})  # fmt: skip
"""The blocks of presets that a node of ComfyUI stands for, alone or with others."""
_SAMPLERS = (
    "euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms", "dpmpp_2m", "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "dpmpp_sde", "ddpm", "lcm", "ddim", "deis", "uni_pc", "uni_pc_bh2",
)  # fmt: skip
_CURVES = (
    "normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta", "kl_optimal",
    "linear_quadratic",
)  # fmt: skip
_TASKS = ("text2image", "image2image")
_ENCODERS: Mapping[str, tuple[str, ...]] = {
    "sd": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
    "sd3": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "flux": ("text_encoder", "text_encoder_2"),
}
_CLIP_TYPE = {"sd": "stable_diffusion", "sdxl": "sdxl", "sd3": "sd3", "flux": "flux"}
_SEVERAL: Mapping[str, tuple[str, ...]] = {
    "flux": ("CLIPTextEncodeFlux", "clip_l", "t5xxl"),
    "sd3": ("CLIPTextEncodeSD3", "clip_l", "clip_g", "t5xxl"),
    "sdxl": ("CLIPTextEncodeSDXL", "text_l", "text_g"),
}
"""The node for a text for each encoder, and its inputs in the order of `prompt`, `prompt_2`, `prompt_3`."""
_EMPTY = {"sd": "EmptyLatentImage", "sdxl": "EmptyLatentImage"}
Files = Mapping[str, str]


def to_comfyui(graph: Graph, inputs: Mapping[str, Any] | None = None, *, files: Files | None = None) -> dict[str, Any]:
    """Write a preset's graph as a workflow in ComfyUI's API format, which its server runs.

    Args:
        graph: a graph of the families sd, sdxl, sd3 or flux for text2image or image2image, with ComfyUI's nodes for all
            of its blocks.
        inputs: values of the graph's inputs, such as the prompt; for others the defaults of the graph hold.
        files: names of model files by component ("unet", "vae", "text_encoder" …), where the graph is not bound to
            single files. A component that is missing here is in the denoiser's file.

    Returns:
        JSON of the API format.

    Raises:
        GraphError: blocks, inputs or components that no node of ComfyUI stands for; all of them.
    """
    return _Writer(graph, dict(inputs or {}), dict(files or {})).workflow().to_api()


class _Writer:
    def __init__(self, graph: Graph, inputs: dict[str, Any], files: dict[str, str]) -> None:
        self.graph, self.inputs, self.files = graph, inputs, files
        self.nodes: dict[str, Node] = {}
        self.read: set[str] = set()  # names of inputs whose values nodes have
        self.problems = [*_foreign_blocks(graph), *unwritten_adapters(graph)]
        family, task = graph.preset or ("", "")
        self.family = {"flux-kontext": "flux"}.get(family, family)
        if self.family not in _ENCODERS or task not in _TASKS:
            self.problems.append(f"the graph is no preset of {', '.join(_ENCODERS)} for {' or '.join(_TASKS)}")
        self.problems += [f"the graph has no input {name!r}" for name in inputs if name not in graph.inputs]
        self._check()

    def _check(self) -> None:
        if self.problems:
            lines = "".join(f"\n  {text}" for text in self.problems)
            raise GraphError(f"ComfyUI has no nodes for this graph ({counted(len(self.problems), 'problem')}):{lines}")

    def add(self, kind: str, **inputs: Any) -> str:
        """Add a node, and give its id."""
        name = str(len(self.nodes) + 1)
        self.nodes[name] = Node(name, kind, {key: value for key, value in inputs.items() if value is not None}, kind)
        return name

    def value(self, name: str, default: Any = None) -> Any:  # of any input
        """The value of an input: passed, or the graph's default."""
        self.read.add(name)
        if name in self.inputs:
            return self.inputs[name]
        port = self.graph.inputs.get(name)
        return default if port is None or port.required else port.default

    # ------------------------------------------------------------------------------------------------- all nodes
    def workflow(self) -> Workflow:
        """All nodes."""
        model, clip, vae = self._models()
        model, clip = self._adapters(model, clip)
        clip = self._skip(clip)
        positive, negative = self._prompts(clip)
        positive, negative = self._controls(positive, negative, vae)
        latents = self._latents(vae)
        scheduler = self._scheduler()
        sampler, curve = self._sampler(scheduler)
        model = self._shift(model, scheduler)
        if rescale := self.value("guidance_rescale", 0.0):
            model = Link(self.add("RescaleCFG", model=model, multiplier=rescale), 0)
        seed = self.value("seed")
        if isinstance(seed, list | tuple):
            self.problems.append("seed has one number for each picture, and a sampler of ComfyUI takes one")
        steps, strength = int(self.value("num_inference_steps")), self.value("strength", 1.0)
        total, denoise = self._part(steps, strength)
        cfg = self.value("true_cfg_scale" if self.family == "flux" else "guidance_scale", 1.0)
        self.problems += [
            *unwritten_inputs(self.graph, self.inputs, self.read),
            *unwritten_fields(self.graph, self.read),
        ]
        self._check()
        sample = self.add(
            "KSampler", model=model, positive=positive, negative=negative, latent_image=latents, seed=seed or 0,
            steps=total, cfg=1.0 if self._unguided() else cfg, sampler_name=sampler, scheduler=curve, denoise=denoise,
        )  # fmt: skip
        tile = self.graph["decode"].config().get("tile")
        more = {} if tile is None else {"tile_size": tile, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
        kind = "VAEDecode" if tile is None else "VAEDecodeTiled"
        decode = self.add(kind, samples=Link(sample, 0), vae=vae, **more)
        self.add("SaveImage", images=Link(decode, 0), filename_prefix="sfumato")
        return Workflow.of(self.nodes)

    def _part(self, steps: int, strength: float) -> tuple[int, float]:
        """Steps and `denoise` of a sampler that takes this part of so many steps."""
        if "strength" not in self.graph.inputs or strength >= 1:
            return steps, 1.0
        kept = round(steps * strength)
        denoise = next(
            (d for d in (kept / steps, round(kept / steps, 4)) if int(kept / d) == steps), kept / (steps + 0.5)
        )
        return kept, denoise

    def _unguided(self) -> bool:
        return isinstance(without_names(self.graph["denoise.guider"])[0], NoGuidance)

    # ------------------------------------------------------------------------------------------------- models
    def _file(self, component: str) -> str | None:
        if component in self.files:
            return self.files[component]
        bound = self.graph.bindings.get(component)
        path = bound.spec.file if isinstance(bound, Handle) else None
        return None if path is None else path.name

    def _models(self) -> tuple[Link, Link, Link]:
        """Loaders: one of a checkpoint where all models are in one file, else one for each kind."""
        denoiser = "transformer" if "transformer" in self._components() else "unet"
        main = self._file(denoiser)
        if main is None:
            self.problems.append(f"{denoiser} is in no single file. Pass files={{{denoiser!r}: 'name.safetensors'}}")
            self._check()
        encoders = [self._file(name) or main for name in _ENCODERS[self.family] if name in self._components()]
        vae = self._file("vae") or main
        if {*encoders} == {main}:
            checkpoint = self.add("CheckpointLoaderSimple", ckpt_name=main)
            own = Link(checkpoint, 2) if vae == main else Link(self.add("VAELoader", vae_name=vae), 0)
            return Link(checkpoint, 0), Link(checkpoint, 1), own
        model = Link(self.add("UNETLoader", unet_name=main, weight_dtype="default"), 0)
        kinds = {1: "CLIPLoader", 2: "DualCLIPLoader", 3: "TripleCLIPLoader"}
        names = {f"clip_name{i}": name for i, name in enumerate(encoders, 1)}
        names = {"clip_name": encoders[0]} if len(encoders) == 1 else names
        clip_type = None if len(encoders) == 3 else _CLIP_TYPE[self.family]
        clip = Link(self.add(kinds[len(encoders)], **names, type=clip_type), 0)
        return model, clip, Link(self.add("VAELoader", vae_name=vae), 0)

    def _components(self) -> Mapping[str, Any]:
        return {**self.graph.bindings, **self.graph.components}

    def _adapters(self, model: Link, clip: Link) -> tuple[Link, Link]:
        attached = self.graph.adapters
        rows = attached.rows if isinstance(attached, AttachedAdapters) else ()
        if len(rows) > 1:
            self.problems.append("the prompts have different adapters, and a workflow has one model")
        for adapter in next(iter(rows), ()):
            file = adapter.content.file
            name = Path(file).name if file is not None else f"{adapter.name}.safetensors"
            strength, factors = adapter.strength, adapter.by_component
            lora = self.add(
                "LoraLoader", model=model, clip=clip, lora_name=name,
                strength_model=strength * factors.get("unet", factors.get("transformer", 1.0)),
                strength_clip=strength * factors.get("text_encoder", 1.0),
            )  # fmt: skip
            model, clip = Link(lora, 0), Link(lora, 1)
        return model, clip

    def _skip(self, clip: Link) -> Link:
        skip, negative = self.value("clip_skip"), self.value("negative_clip_skip")
        if "negative_clip_skip" in self.graph.inputs and (skip or 0) != (negative or 0) and not self._unguided():
            self.problems.append(
                f"clip_skip={skip} and negative_clip_skip={negative} differ, and a node skips layers for both prompts"
            )
        if not skip:
            return clip
        layer = -(skip + (2 if self.family == "sdxl" else 1))
        return Link(self.add("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=layer), 0)

    # ------------------------------------------------------------------------------------------------- prompts
    def _prompts(self, clip: Link) -> tuple[Link, Link]:
        if self.value("prompts", "plain") not in ("comfy", "plain"):
            self.problems.append(f"the syntax prompts={self.value('prompts')!r} is not ComfyUI's")
        texts = [self._text(name) for name in ("prompt", "prompt_2", "prompt_3") if name in self.graph.inputs]
        positive = self._encode(clip, texts, self.value("guidance_scale") if self.family == "flux" else None)
        guided = not self._unguided() and (self.family != "flux" or self.value("true_cfg_scale", 1.0) != 1)
        negative = self.value("negative_prompt")
        zeroed = "zero_negative" in self.graph.nodes or (self.family == "sdxl" and negative is None)
        if not guided or zeroed:
            return positive, Link(self.add("ConditioningZeroOut", conditioning=positive), 0)
        return positive, self._encode(clip, [self._text("negative_prompt") or ""], None)

    def _text(self, name: str) -> str | None:
        text = self.value(name)
        if text is None and name != "prompt":
            return None
        if not isinstance(text, str):
            self.problems.append(f"{name} is {type(text).__name__}. Pass inputs={{{name!r}: 'a text'}}")
            return ""
        if self.value("prompts", "plain") == "plain":  # ComfyUI reads weights in parentheses
            text = text.replace("(", r"\(").replace(")", r"\)")
        return text

    def _encode(self, clip: Link, texts: list[str | None], guidance: float | None) -> Link:
        first, *more = texts
        if any(text is not None for text in more):
            kind, *names = _SEVERAL[self.family]
            values = {name: text if text is not None else first for name, text in zip(names, texts, strict=False)}
            sizes = {"guidance": guidance} if self.family == "flux" else {}
            return Link(self.add(kind, clip=clip, **values, **sizes), 0)
        made = Link(self.add("CLIPTextEncode", clip=clip, text=first), 0)
        return made if guidance is None else Link(self.add("FluxGuidance", conditioning=made, guidance=guidance), 0)

    def _controls(self, positive: Link, negative: Link, vae: Link) -> tuple[Link, Link]:
        for name in [n for n in self.graph.inputs if n.startswith("control_image")]:
            number = name.removeprefix("control_image")
            net = self.add("ControlNetLoader", control_net_name=self._file(f"controlnet{number}") or "")
            apply = self.add(
                "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=Link(net, 0),
                image=self._picture(name), vae=vae if self.family in ("sd3", "flux") else None,
                strength=self.value(f"controlnet_conditioning_scale{number}", 1.0),
                start_percent=self.value(f"control_guidance_start{number}", 0.0),
                end_percent=self.value(f"control_guidance_end{number}", 1.0),
            )  # fmt: skip
            positive, negative = Link(apply, 0), Link(apply, 1)
        return positive, negative

    # ------------------------------------------------------------------------------------------------- latents
    def _latents(self, vae: Link) -> Link:
        if "image" in self.graph.inputs:
            return Link(self.add("VAEEncode", pixels=self._picture("image"), vae=vae), 0)
        kind = _EMPTY.get(self.family, "EmptySD3LatentImage")
        batch = self.value("num_images_per_prompt", 1)
        return Link(self.add(kind, width=self.value("width"), height=self.value("height"), batch_size=batch), 0)

    def _picture(self, name: str) -> Link | None:
        value = self.value(name)
        if not isinstance(value, str | Path):
            self.problems.append(f"{name} is {type(value).__name__}. Pass inputs={{{name!r}: 'the name of a file'}}")
            return None
        return Link(self.add("LoadImage", image=Path(value).name), 0)

    # ------------------------------------------------------------------------------------------------- sampling
    def _scheduler(self) -> Scheduler | None:
        bound = self.graph.bindings.get("scheduler")
        return bound.load() if isinstance(bound, Handle) else bound

    def _sampler(self, scheduler: Scheduler | None) -> tuple[str, str]:
        """The names that give this scheduler: those which change no key of it."""
        if scheduler is None:
            self.problems.append("scheduler is not bound. Write graph.using(scheduler='euler_normal')")
            return "", ""
        for sampler in _SAMPLERS:
            for curve in _CURVES:
                try:
                    if Scheduler.coerce(f"{sampler}_{curve}", scheduler) == scheduler:
                        return sampler, curve
                except (ConfigError, ValueError):
                    continue
        self.problems.append(
            f"{type(scheduler).__name__} with its keys is no sampler and curve of ComfyUI. Write "
            "graph.using(scheduler='euler_normal'), or another sampler with a curve"
        )
        return "", ""

    def _shift(self, model: Link, scheduler: Scheduler | None) -> Link:
        own = self._own_shift()
        shift = getattr(scheduler, "flow_shift", None) or getattr(scheduler, "shift", None)
        if own is None or shift is None or isclose(shift, own, rel_tol=1e-6):
            return model
        if self.family == "sd3":
            return Link(self.add("ModelSamplingSD3", model=model, shift=shift), 0)
        sizes = {"width": self.value("width", 1024), "height": self.value("height", 1024)}
        mu = log(shift)
        return Link(self.add("ModelSamplingFlux", model=model, max_shift=mu, base_shift=mu, **sizes), 0)

    def _own_shift(self) -> float | None:
        name = self._file("transformer") or ""
        return 1.0 if self.family == "flux" and "schnell" in name.lower() else SHIFT.get(self.family)


def _foreign_blocks(graph: Graph) -> Iterator[str]:
    """The blocks that no node stands for, with their places."""
    for path, block in blocks_inside(graph):
        if path and not block.children() and type(block) not in _COVERED:
            yield f"{'.'.join(path)}: {type(block).__name__} has no node"
