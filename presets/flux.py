"""Flux.1 (Black Forest Labs 2024): dev and schnell, Fill and Kontext, and every checkpoint of that layout."""

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.flux import PredictFlow
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.image.read import ReadImage
from ..blocks.latents.flow import CutSchedule, MakeSchedule
from ..blocks.latents.parts import BeginPart, EndPart, KeepSeed
from ..blocks.latents.start import CountRows, DrawNoise, ScaleNoise, SeedRandom
from ..blocks.text.flux import EncodePrompt, MatchNegative
from ..blocks.text.rows import ExpandRows
from ..graph import Block, Graph, named
from .denoising import denoising_loop
from .flux_tools import (
    with_control_channels,
    with_fill_channels,
    with_image_prompt,
    with_masked_image_drawn_first,
    with_reference_image,
    with_reference_or_image,
)
from .settings import FluxSettings
from .tasks import to_image2image, to_inpaint

NEGATIVE = {"prompt": "negative_prompt", "prompt_2": "negative_prompt_2"}


def text2image(settings: FluxSettings = FluxSettings(), *, guidance_scale: float = 3.5) -> Graph:
    """Make pictures from a prompt."""
    size, patch = settings.size, settings.patch
    graph = Graph(
        positive=named(EncodePrompt(), conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=named(EncodePrompt(), conditioning="negative", **NEGATIVE),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        random=SeedRandom(),
        keep_seed=KeepSeed(),
        noise=DrawNoise(channels=settings.channels, factor=settings.factor, patch=patch, height=size, width=size),
        schedule=MakeSchedule(patch=patch),
        start=ScaleNoise(),
        begin=BeginPart(),
        denoise=denoising_loop(
            PredictFlow(guidance_scale=guidance_scale if settings.embeds_guidance else None), _true_guidance()
        ),
        end=EndPart(),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("flux", "text2image"),
    )
    return with_control_channels(graph, settings) if settings.reads_control else graph


def _true_guidance() -> Block:
    """Off by default. Its scale is `true_cfg_scale`, since `guidance_scale` is an input of the distilled model."""
    return named(ClassifierFreeGuidance(guidance_scale=1.0), guidance_scale="true_cfg_scale")


def image2image(settings: FluxSettings = FluxSettings(), *, guidance_scale: float = 7.0) -> Graph:
    """Change a picture by a prompt, as much as `strength` says."""
    size, multiple = settings.size, settings.multiple
    return (
        to_image2image(text2image(settings, guidance_scale=guidance_scale), multiple)
        .replace("read", ReadImage(multiple=multiple, height=size, width=size))
        .replace("cut", CutSchedule())
        .as_preset("flux", "image2image")
    )


def inpaint(settings: FluxSettings = FluxSettings()) -> Graph:
    """Paint the white part of a mask by a prompt. A transformer that was trained for it reads the mask."""
    if settings.reads_mask:
        return fill(settings).as_preset("flux", "inpaint")
    graph = to_inpaint(image2image(settings), settings.size, settings.multiple, reads_mask=False)
    if settings.reads_control:
        graph = with_masked_image_drawn_first(graph)
    return graph.as_preset("flux", "inpaint")


def fill(settings: FluxSettings = FluxSettings()) -> Graph:
    """Paint the white part of a mask by a prompt, with a transformer that was trained for it (Fill)."""
    return (
        with_fill_channels(image2image(settings, guidance_scale=30.0), settings)
        .replace("schedule", MakeSchedule(patch=settings.patch, num_inference_steps=50))
        .replace("cut", CutSchedule(strength=1.0))
        .as_preset("flux", "fill")
    )


def kontext(settings: FluxSettings = FluxSettings()) -> Graph:
    """Edit a picture as a prompt says: the transformer reads the picture as further tokens (Kontext)."""
    return with_reference_image(text2image(settings), settings).as_preset("flux", "kontext")


def kontext_inpaint(settings: FluxSettings = FluxSettings()) -> Graph:
    """Edit the white part of a mask as a prompt says. The transformer reads the picture, or `image_reference`."""
    graph = image2image(settings, guidance_scale=3.5).replace("cut", CutSchedule(strength=1.0))
    graph = to_inpaint(graph, settings.size, settings.multiple, reads_mask=False)
    return with_reference_or_image(graph, settings).as_preset("flux", "kontext_inpaint")


def redux(settings: FluxSettings = FluxSettings()) -> Graph:
    """Make pictures like one that is passed, or like several at once (Redux)."""
    graph = text2image(settings, guidance_scale=2.5)
    return with_image_prompt(graph, settings.pooled_width).as_preset("flux", "redux")
