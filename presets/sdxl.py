"""Stable Diffusion XL (Podell et al. 2023), its refiner, and checkpoints distilled from it (LCM, Turbo, Lightning)."""

from collections.abc import Mapping
from typing import Any

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.advance import AdvanceLatents
from ..blocks.denoise.unet import PredictDistilled, PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.denoising_range import BeginSchedule, ContinueOrNoise, DrawNoiseToBegin, EndSchedule
from ..blocks.latents.start import CountRows, DrawNoise, DrawNoiseLike, MakeSchedule, ScaleNoise, SeedRandom
from ..blocks.text.micro_conditioning import AddSizes, ChooseSizes, UseAestheticScore
from ..blocks.text.rows import ExpandRows
from ..blocks.text.sdxl import EncodePrompt, EncodeRefinerPrompt, MatchNegative
from ..graph import Graph, Loop, named
from .control import UNET_CONTROL, attaching
from .edits import NEGATIVE, from_image, into_mask, knowing_guidance
from .sdxl_refiner import refined
from .settings import read_config, unet_settings


def text2image(
    size: int = 1024,
    channels: int = 4,
    factor: int = 8,
    towers: int = 2,
    size_ids: int | None = None,
    distilled: bool = False,
    force_zeros_for_empty_prompt: bool = True,
    requires_aesthetics_score: bool = False,
    guidance_scale: float = 5.0,
    **_: Any,
) -> Graph:
    """A prompt becomes pictures."""
    encode = EncodePrompt() if towers == 2 else EncodeRefinerPrompt()
    graph = Graph(
        positive=named(encode, text="positive"),
        rows=CountRows(),
        match=MatchNegative(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt),
        negative=named(encode, text="negative", **NEGATIVE),
        random=SeedRandom(),
        schedule=MakeSchedule(),
        end=EndSchedule(),
        noise=DrawNoise(channels=channels, factor=factor, height=size, width=size),
        sizes=ChooseSizes(factor=factor),
        size_positive=named(AddSizes(), text="positive", conditioning="positive"),
        size_negative=named(AddSizes(), text="negative", conditioning="negative", sizes="negative_sizes"),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        start=ScaleNoise(),
        denoise=Loop(
            over="steps",
            each="step",
            carry=("latents", "random"),
            body=Graph(
                predict=PredictNoise(),
                guider=ClassifierFreeGuidance(guidance_scale=guidance_scale),
                advance=AdvanceLatents(),
            ),
        ),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("sdxl", "text2image"),
    )
    graph = _knowing_guidance(graph, guidance_scale) if distilled else graph
    scored = size_ids == 5 or (size_ids is None and requires_aesthetics_score)
    return graph.insert("score", UseAestheticScore(), after="sizes") if scored else graph


def _knowing_guidance(graph: Graph, guidance_scale: float) -> Graph:
    return knowing_guidance(graph, PredictDistilled(guidance_scale=guidance_scale))


def image2image(factor: int = 8, **settings: Any) -> Graph:
    """A prompt changes a picture: as much of it as `strength` says. Or another run goes on, from `denoising_start`."""
    return (
        from_image(text2image(factor=factor, **settings), factor)
        .replace("cut", BeginSchedule())
        .replace("noise", DrawNoiseToBegin())
        .replace("start", ContinueOrNoise())
        .as_preset("sdxl", "image2image")
    )


def inpaint(size: int = 1024, channels: int = 4, factor: int = 8, unet_channels: int = 4, **settings: Any) -> Graph:
    """A prompt paints what a mask leaves open."""
    settings = {"size": size, "channels": channels, "factor": factor, "guidance_scale": 7.5, **settings}
    return (
        into_mask(image2image(**settings), size, factor, joined=unet_channels == 2 * channels + 1)
        .replace("cut", BeginSchedule(strength=0.9999))
        .replace("noise", DrawNoiseLike())  # what the mask keeps is noised too, however the run begins
        .replace("start", ContinueOrNoise(pure=True))
        .as_preset("sdxl", "inpaint")
    )


def text2image_refined(distilled: bool = False, guidance_scale: float = 5.0, **settings: Any) -> Graph:
    """The base begins a picture, the refiner ends it: one schedule, two models (Podell et al. 2023, section 2.5)."""
    graph = refined(text2image(guidance_scale=guidance_scale, **settings))
    return _knowing_guidance(graph, guidance_scale) if distilled else graph


def settings(components: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the configs of the U-Net, the autoencoder and the second text tower say."""
    unet, text = (read_config(components.get(name)) for name in ("unet", "text_encoder_2"))
    alone = "text_encoder_2" in components and "text_encoder" not in components
    found = {**unet_settings(components), "towers": 1 if alone else 2}
    # What the U-Net reads beside time is the pooled prompt and the waves of each size number, in one row.
    width, waves, pooled = (
        unet.get("projection_class_embeddings_input_dim"),
        unet.get("addition_time_embed_dim"),
        text.get("projection_dim"),
    )
    return {**found, "size_ids": (width - pooled) // waves} if width and waves and pooled else found


attach = attaching(UNET_CONTROL)
"""Inserts the blocks of the control nets and adapters that a checkpoint has."""
