"""PixArt-Sigma (Chen et al. 2024) and PixArt-Alpha (Chen et al. 2023), and every checkpoint of that layout."""

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.pixart import PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.parts import BeginPart, EndPart, KeepSeed
from ..blocks.latents.start import CountRows, DrawNoise, MakeSchedule, NoiseImageFully, ScaleNoise, SeedRandom
from ..blocks.text.pixart import EncodePrompt
from ..blocks.text.rows import ExpandRows, MatchNegative
from ..graph import Graph, named
from .denoising import denoising_loop
from .settings import PixArtSettings
from .tasks import to_image2image, to_inpaint


def text2image(settings: PixArtSettings = PixArtSettings()) -> Graph:
    """Make pictures from a prompt."""
    encode = EncodePrompt(max_sequence_length=settings.max_sequence_length)
    size, factor = settings.size, settings.factor
    return Graph(
        positive=named(encode, conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=named(encode, conditioning="negative", prompt="negative_prompt"),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        random=SeedRandom(),
        keep_seed=KeepSeed(),
        schedule=MakeSchedule(num_inference_steps=20),
        noise=DrawNoise(channels=settings.channels, factor=factor, patch=settings.patch, height=size, width=size),
        start=ScaleNoise(),
        begin=BeginPart(),
        denoise=denoising_loop(PredictNoise(factor=factor), ClassifierFreeGuidance(guidance_scale=4.5)),
        end=EndPart(),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("pixart", "text2image"),
    )


def image2image(settings: PixArtSettings = PixArtSettings()) -> Graph:
    """Change a picture by a prompt, as much as `strength` says."""
    return to_image2image(text2image(settings), settings.multiple).as_preset("pixart", "image2image")


def inpaint(settings: PixArtSettings = PixArtSettings()) -> Graph:
    """Paint the white part of a mask by a prompt. What lies outside the mask is put back after each step."""
    return (
        to_inpaint(image2image(settings), settings.size, settings.multiple, reads_mask=False)
        .replace("start", NoiseImageFully())
        .as_preset("pixart", "inpaint")
    )
