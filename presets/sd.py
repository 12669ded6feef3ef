"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and every checkpoint of that layout."""

from typing import Any

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.advance import AdvanceLatents
from ..blocks.denoise.unet import PredictDistilled, PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.start import (
    CountRows,
    CutSchedule,
    DrawNoise,
    MakeSchedule,
    NoiseImageFully,
    ScaleNoise,
    SeedRandom,
)  # fmt: skip
from ..blocks.text.rows import ExpandRows, MatchNegative
from ..blocks.text.sd import EncodePrompt
from ..graph import Block, Graph, Loop, named
from .control import UNET_CONTROL, attaching
from .edits import from_image, into_mask, knowing_guidance

SLOTS = {"guider": ["denoise.guider"]}


def text2image(size: int = 512, channels: int = 4, factor: int = 8, distilled: bool = False, **_: Any) -> Graph:
    """A prompt becomes pictures."""
    graph = Graph(
        positive=named(EncodePrompt(), conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=_encode_negative(),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        random=SeedRandom(),
        schedule=MakeSchedule(),
        noise=DrawNoise(channels=channels, factor=factor, height=size, width=size),
        start=ScaleNoise(),
        denoise=Loop(
            over="steps",
            each="step",
            carry=("latents", "random"),
            body=Graph(
                predict=PredictNoise(),
                guider=ClassifierFreeGuidance(),
                advance=AdvanceLatents(),
            ),
        ),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots=SLOTS,
        preset=("sd", "text2image"),
    )
    return knowing_guidance(graph, PredictDistilled()) if distilled else graph


def _encode_negative() -> Block:
    """The reference skips layers for the positive prompt only, so the negative one has a `clip_skip` of its own."""
    block = EncodePrompt()
    return named(block, prompt="negative_prompt", conditioning="negative", clip_skip="negative_clip_skip")


def image2image(factor: int = 8, **settings: Any) -> Graph:
    """A prompt changes a picture: as much of it as `strength` says."""
    return from_image(text2image(factor=factor, **settings), factor).as_preset("sd", "image2image")


def inpaint(size: int = 512, channels: int = 4, factor: int = 8, unet_channels: int = 4, **settings: Any) -> Graph:
    """A prompt paints what a mask leaves open."""
    graph = image2image(size=size, channels=channels, factor=factor, **settings)
    return (
        into_mask(graph, size, factor, joined=unet_channels == 2 * channels + 1)
        .replace("cut", CutSchedule(strength=1.0))
        .replace("start", NoiseImageFully())
        .as_preset("sd", "inpaint")
    )


attach = attaching(UNET_CONTROL)
"""Inserts the blocks of the control nets and adapters that a checkpoint has."""
