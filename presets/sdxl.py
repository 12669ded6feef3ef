"""Stable Diffusion XL (Podell et al. 2023), its refiner, and checkpoints distilled from it (LCM, Turbo, Lightning)."""

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.unet import PredictDistilled, PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.denoising_range import BeginSchedule, ContinueOrNoise, DrawNoiseToBegin
from ..blocks.latents.parts import BeginPart, EndPart, KeepSeed
from ..blocks.latents.start import CountRows, DrawNoise, DrawNoiseLike, MakeSchedule, ScaleNoise, SeedRandom
from ..blocks.text.micro_conditioning import AddSizes, ChooseSizes, UseAestheticScore
from ..blocks.text.rows import ExpandRows
from ..blocks.text.sdxl import EncodePrompt, EncodeRefinerPrompt, MatchNegative
from ..graph import Graph, named
from .denoising import denoising_loop
from .sdxl_refiner import with_refiner
from .settings import SDXLSettings
from .tasks import NEGATIVE, to_image2image, to_inpaint, without_guider


def text2image(settings: SDXLSettings = SDXLSettings(), *, guidance_scale: float = 5.0) -> Graph:
    """Make pictures from a prompt."""
    graph = _text2image(settings, guidance_scale)
    return _without_guider(graph, guidance_scale) if settings.embeds_guidance else graph


def _text2image(settings: SDXLSettings, guidance_scale: float) -> Graph:
    encode = EncodePrompt() if settings.text_encoders == 2 else EncodeRefinerPrompt()
    size, factor = settings.size, settings.factor
    graph = Graph(
        positive=named(encode, text="positive"),
        rows=CountRows(),
        match=MatchNegative(force_zeros_for_empty_prompt=settings.force_zeros_for_empty_prompt),
        negative=named(encode, text="negative", **NEGATIVE),
        random=SeedRandom(),
        keep_seed=KeepSeed(),
        schedule=MakeSchedule(),
        noise=DrawNoise(channels=settings.channels, factor=factor, height=size, width=size),
        sizes=ChooseSizes(factor=factor),
        size_positive=named(AddSizes(), text="positive", conditioning="positive"),
        size_negative=named(AddSizes(), text="negative", conditioning="negative", sizes="negative_sizes"),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        start=ScaleNoise(),
        begin=BeginPart(),
        denoise=denoising_loop(PredictNoise(), ClassifierFreeGuidance(guidance_scale=guidance_scale)),
        end=EndPart(),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("sdxl", "text2image"),
    )
    return graph.insert("score", UseAestheticScore(), after="sizes") if settings.reads_score else graph


def _without_guider(graph: Graph, guidance_scale: float) -> Graph:
    return without_guider(graph, PredictDistilled(guidance_scale=guidance_scale))


def image2image(settings: SDXLSettings = SDXLSettings(), *, guidance_scale: float = 5.0) -> Graph:
    """Change a picture by a prompt, as much as `strength` says. Or continue another run, from `denoising_start`."""
    return (
        to_image2image(text2image(settings, guidance_scale=guidance_scale), settings.factor)
        .replace("cut", BeginSchedule())
        .replace("noise", DrawNoiseToBegin())
        .replace("start", ContinueOrNoise())
        .as_preset("sdxl", "image2image")
    )


def inpaint(settings: SDXLSettings = SDXLSettings()) -> Graph:
    """Paint the white part of a mask by a prompt."""
    graph = image2image(settings, guidance_scale=7.5)
    return (
        to_inpaint(graph, settings.size, settings.factor, reads_mask=settings.reads_mask)
        .replace("cut", BeginSchedule(strength=0.9999))
        .replace("noise", DrawNoiseLike())  # the kept part is noised too, wherever the run begins
        .replace("start", ContinueOrNoise(from_noise_alone=True))
        .as_preset("sdxl", "inpaint")
    )


def text2image_refined(settings: SDXLSettings = SDXLSettings()) -> Graph:
    """Make pictures with two models and one schedule: the base begins, the refiner ends (Podell et al. 2023, 2.5)."""
    graph = with_refiner(_text2image(settings, 5.0))
    return _without_guider(graph, 5.0) if settings.embeds_guidance else graph
