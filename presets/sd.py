"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and every checkpoint of that layout."""

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.unet import PredictDistilled, PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.parts import BeginPart, EndPart, KeepSeed
from ..blocks.latents.start import (
    CountRows,
    CutSchedule,
    DrawNoise,
    MakeSchedule,
    NoiseImageFully,
    ScaleNoise,
    SeedRandom,
    SpreadSchedule,
)  # fmt: skip
from ..blocks.text.rows import ExpandRows, MatchNegative
from ..blocks.text.sd import EncodePrompt
from ..graph import Graph, named
from .denoising import denoising_loop
from .settings import SDSettings
from .tasks import NEGATIVE, to_image2image, to_inpaint, without_guider


def text2image(settings: SDSettings = SDSettings()) -> Graph:
    """Make pictures from a prompt."""
    negative = {name: NEGATIVE[name] for name in ("prompt", "clip_skip")}
    size, factor = settings.size, settings.factor
    graph = Graph(
        positive=named(EncodePrompt(), conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=named(EncodePrompt(), conditioning="negative", **negative),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        random=SeedRandom(),
        keep_seed=KeepSeed(),
        schedule=MakeSchedule(),
        noise=DrawNoise(channels=settings.channels, factor=factor, height=size, width=size),
        start=ScaleNoise(),
        begin=BeginPart(),
        denoise=denoising_loop(PredictNoise(), ClassifierFreeGuidance()),
        end=EndPart(),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("sd", "text2image"),
    )
    if settings.embeds_guidance:  # a consistency model; its publisher draws in 4 steps
        graph = without_guider(graph, PredictDistilled()).replace("schedule", MakeSchedule(num_inference_steps=4))
    return graph


def image2image(settings: SDSettings = SDSettings()) -> Graph:
    """Change a picture by a prompt, as much as `strength` says."""
    graph = to_image2image(text2image(settings), settings.factor)
    if settings.embeds_guidance:  # a consistency model
        graph = graph.replace("cut", SpreadSchedule())
    return graph.as_preset("sd", "image2image")


def inpaint(settings: SDSettings = SDSettings()) -> Graph:
    """Paint the white part of a mask by a prompt."""
    return (
        to_inpaint(image2image(settings), settings.size, settings.factor, reads_mask=settings.reads_mask)
        .replace("cut", CutSchedule(strength=1.0))
        .replace("start", NoiseImageFully())
        .as_preset("sd", "inpaint")
    )
