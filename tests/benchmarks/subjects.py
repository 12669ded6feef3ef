"""The models that are timed beside diffusers: the embedded one, and others with random weights, which both share.

A subject draws without encoders and decoder: with encoded prompts, to latents. So a run is its loop.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.conditioning import FluxConditioning, SDConditioning, SDXLText

EMOJI = Path(sf.__file__).parent / "presets/embedded/emoji"
SD15: Mapping[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8,
    "sample_size": 32,
}  # fmt: skip
TINY_SDXL: Mapping[str, Any] = {
    "block_out_channels": (64, 128, 256), "cross_attention_dim": 256, "attention_head_dim": (1, 2, 4),
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "sample_size": 32,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 32, "projection_class_embeddings_input_dim": 256,
}  # fmt: skip
TINY_FLUX: Mapping[str, Any] = {
    "num_layers": 4, "num_single_layers": 8, "attention_head_dim": 64, "num_attention_heads": 6,
    "joint_attention_dim": 256, "pooled_projection_dim": 64, "axes_dims_rope": (16, 24, 24), "guidance_embeds": True,
}  # fmt: skip
EULER: Mapping[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
GUIDANCE = 4.0


@dataclass(frozen=True)
class Subject:
    """One model in both libraries.

    graph: ours, from noise to latents, with values for a call. pipeline: theirs, with values for a call. steps: of a
    run that is timed.
    """

    name: str
    graph: sf.Graph
    values: Mapping[str, Any]
    pipeline: Any
    their_values: Mapping[str, Any]
    steps: int

    @property
    def model(self) -> Any:
        """Our denoiser."""
        found = self.graph.bindings.get("unet") or self.graph.bindings["transformer"]
        return found.load() if hasattr(found, "load") else found

    @property
    def their_model(self) -> Any:
        """Their denoiser, with the tensors of ours."""
        return getattr(self.pipeline, "unet", None) or self.pipeline.transformer

    def our_step(self, graph: sf.Graph | None = None) -> float:
        """Seconds of one of our steps. The first step is not counted."""
        run = (graph or self.graph).stream(**self.values, num_inference_steps=self.steps)
        ends = [time.perf_counter() for event in run if isinstance(event, sf.events.StepFinished)]
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    def their_step(self) -> float:
        """Seconds of one of their steps. The first step is not counted."""
        ends: list[float] = []

        def note(_: Any, __: int, ___: Any, kept: dict[str, Any]) -> dict[str, Any]:
            ends.append(time.perf_counter())
            return kept

        self.pipeline(
            **self.their_values, num_inference_steps=self.steps, output_type="latent", callback_on_step_end=note
        )
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    def difference(self) -> float:
        """The largest difference of the latents after two steps, as a fraction of the largest number of theirs."""
        steps = {"num_inference_steps": 2}
        ours = self.graph(**self.values, **steps).latents
        self.their_values["generator"].manual_seed(self.values["seed"])
        theirs = self.pipeline(**self.their_values, **steps, output_type="latent").images
        theirs = theirs if theirs.shape == ours.shape else unpacked(theirs, ours)
        return float((ours - theirs).abs().max() / theirs.abs().max())


def subjects(*names: str) -> Iterator[Subject]:
    """The subjects of these names, one after another, so that one is in memory at a time; all without names."""
    for name, make in SUBJECTS.items():
        if not names or name in names:
            torch.manual_seed(0)
            yield make(name)


def _embedded(name: str) -> Subject:
    theirs = _their("StableDiffusionPipeline").from_pretrained(EMOJI, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    ours = sf.load(EMOJI).only("latents")
    model: Any = ours.bindings["unet"].load()
    theirs.unet = _twin(model, "UNet2DConditionModel")
    call = {"prompt": "a red apple", "guidance_scale": GUIDANCE}
    more = {"height": 64, "width": 64, "generator": torch.Generator().manual_seed(1)}
    return Subject(name, ours, {**call, "seed": 1}, theirs, {**call, **more}, 24)


def _sd15(name: str) -> Subject:
    model = sf.models.UNet2DConditionModel(**SD15).eval().requires_grad_(False)
    tokens = torch.randn(2, 77, 768)
    theirs = _their("StableDiffusionPipeline")(
        vae=None, text_encoder=None, tokenizer=None, unet=_twin(model, "UNet2DConditionModel"),
        scheduler=_their("EulerDiscreteScheduler")(**EULER), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    ours = sf.load("sd", unet=model, scheduler=sf.schedulers.EulerDiscreteScheduler(**EULER)).only("latents")
    prompts = {"positive": SDConditioning(tokens[:1]), "negative": SDConditioning(tokens[1:])}
    their_prompts = {"prompt_embeds": tokens[:1], "negative_prompt_embeds": tokens[1:]}
    return _guided(name, ours, prompts, theirs, their_prompts, 3)


def _sdxl(name: str) -> Subject:
    model = sf.models.UNet2DConditionModel(**TINY_SDXL).eval().requires_grad_(False)
    tokens, pooled = torch.randn(2, 77, 256), torch.randn(2, 64)
    theirs = _their("StableDiffusionXLPipeline")(
        vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None,
        unet=_twin(model, "UNet2DConditionModel"), scheduler=_their("EulerDiscreteScheduler")(**EULER),
    )  # fmt: skip
    ours = sf.load("sdxl", unet=model, scheduler=sf.schedulers.EulerDiscreteScheduler(**EULER)).only("latents")
    one, other = (SDXLText(tokens[i : i + 1], pooled[i : i + 1]) for i in (0, 1))
    their_prompts = {
        "prompt_embeds": tokens[:1], "negative_prompt_embeds": tokens[1:],
        "pooled_prompt_embeds": pooled[:1], "negative_pooled_prompt_embeds": pooled[1:],
    }  # fmt: skip
    return _guided(name, ours, {"positive": one, "negative": other}, theirs, their_prompts, 6)


def _flux(name: str) -> Subject:
    model = sf.models.FluxTransformer2DModel(**TINY_FLUX).eval().requires_grad_(False)
    tokens, pooled = torch.randn(1, 128, 256), torch.randn(1, 64)
    theirs = _their("FluxPipeline")(
        scheduler=_their("FlowMatchEulerDiscreteScheduler")(), vae=None, text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, transformer=_twin(model, "FluxTransformer2DModel"),
    )  # fmt: skip
    scheduler = sf.schedulers.FlowMatchEulerDiscreteScheduler()
    ours = sf.load("flux", transformer=model, scheduler=scheduler, guider="NoGuidance").only("latents")
    prompts = {"positive": FluxConditioning(tokens, pooled)}
    return _guided(name, ours, prompts, theirs, {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}, 8)


def _guided(
    name: str, ours: sf.Graph, prompts: Mapping[str, Any], theirs: Any, their_prompts: Mapping[str, Any], steps: int
) -> Subject:
    """A subject of pictures of 256 x 256 pixels from the same noise."""
    theirs.set_progress_bar_config(disable=True)
    size = {"height": 256, "width": 256, "guidance_scale": GUIDANCE}
    seed = torch.Generator().manual_seed(1)
    return Subject(
        name, ours, {**prompts, **size, "seed": 1}, theirs, {**their_prompts, **size, "generator": seed}, steps
    )


SUBJECTS: Mapping[str, Callable[[str], Subject]] = {
    "embedded": _embedded,
    "SD 1.5 size": _sd15,
    "tiny SDXL": _sdxl,
    "tiny Flux": _flux,
}


def _their(name: str) -> Any:
    return getattr(import_module("diffusers"), name)


def _twin(model: nn.Module, class_name: str) -> Any:
    """Their model with the config and the tensors of ours."""
    config = {key: value for key, value in model.to_config().items() if key != "_class_name"}  # type: ignore[operator]
    theirs = _their(class_name).from_config(config)
    theirs.load_state_dict(model.state_dict(), assign=True)
    return theirs.eval().requires_grad_(False)


def unpacked(tokens: Tensor, like: Tensor) -> Tensor:
    """Latents `b c h w` of Flux's tokens, each of 2 x 2 latents."""
    rows, columns = (side // 2 for side in like.shape[2:])
    parts = tokens.unflatten(1, (rows, columns)).unflatten(3, (like.shape[1], 2, 2))
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(like.shape)
