"""Flux.1 (Black Forest Labs 2024): dev and schnell, Fill and Kontext, and every checkpoint of that layout."""

from typing import Any

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.advance import AdvanceLatents
from ..blocks.denoise.flux import PredictFlow
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.image.read import ReadImage
from ..blocks.latents.flow import CutSchedule, MakeSchedule
from ..blocks.latents.start import CountRows, DrawNoise, ScaleNoise, SeedRandom
from ..blocks.text.flux import EncodePrompt, MatchNegative
from ..blocks.text.rows import ExpandRows
from ..graph import Block, Graph, Loop, named
from .edits import from_image, into_mask
from .flux_tools import PATCH, filling, looking, said_by_images, steered

NEGATIVE = {"prompt": "negative_prompt", "prompt_2": "negative_prompt_2"}
SIZE = 1024  # pixels a side; no config of Flux says it


def text2image(
    channels: int = 16,
    factor: int = 8,
    distilled: bool = True,
    guidance_scale: float = 3.5,
    steers: bool = False,
    **_: Any,
) -> Graph:
    """A prompt becomes pictures."""
    graph = Graph(
        positive=named(EncodePrompt(), conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=named(EncodePrompt(), conditioning="negative", **NEGATIVE),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        random=SeedRandom(),
        noise=DrawNoise(channels=channels, factor=factor, patch=PATCH, height=SIZE, width=SIZE),
        schedule=MakeSchedule(patch=PATCH),
        start=ScaleNoise(),
        denoise=Loop(
            over="steps",
            each="step",
            carry=("latents", "random"),
            body=Graph(
                predict=PredictFlow(guidance_scale=guidance_scale if distilled else None),
                guider=_true_guidance(),
                advance=AdvanceLatents(),
            ),
        ),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("flux", "text2image"),
    )
    return steered(graph, SIZE, factor * PATCH) if steers else graph


def _true_guidance() -> Block:
    """Off at first. Its scale has a name of its own, since `guidance_scale` is what the model was distilled to read."""
    return named(ClassifierFreeGuidance(guidance_scale=1.0), guidance_scale="true_cfg_scale")


def image2image(factor: int = 8, **settings: Any) -> Graph:
    """A prompt changes a picture: as much of it as `strength` says."""
    multiple, settings = factor * PATCH, {"guidance_scale": 7.0, **settings}
    return (
        from_image(text2image(factor=factor, **settings), multiple)
        .replace("read", ReadImage(multiple=multiple, height=SIZE, width=SIZE))
        .replace("cut", CutSchedule())
        .as_preset("flux", "image2image")
    )


def inpaint(factor: int = 8, fills: bool = False, **settings: Any) -> Graph:
    """A prompt paints what a mask leaves open: what lies outside is put back after each step, or Fill sees to it."""
    if fills:
        return fill(factor, **settings).as_preset("flux", "inpaint")
    graph = into_mask(image2image(factor, **settings), SIZE, factor * PATCH, joined=False)
    return graph.as_preset("flux", "inpaint")


def fill(factor: int = 8, **settings: Any) -> Graph:
    """The same with a transformer trained for it."""
    settings = {"guidance_scale": 30.0, **settings}
    return (
        filling(image2image(factor, **settings), SIZE, factor * PATCH)
        .replace("schedule", MakeSchedule(patch=PATCH, num_inference_steps=50))
        .replace("cut", CutSchedule(strength=1.0))
        .as_preset("flux", "fill")
    )


def kontext(factor: int = 8, **settings: Any) -> Graph:
    """A prompt says what becomes of a picture that the transformer looks at."""
    return looking(text2image(factor=factor, **settings), SIZE, factor * PATCH).as_preset("flux", "kontext")


def redux(pooled: int = 768, **settings: Any) -> Graph:
    """Pictures like one that is given, or like several at once."""
    settings = {"guidance_scale": 2.5, **settings}
    return said_by_images(text2image(**settings), pooled).as_preset("flux", "redux")
