"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022), and every checkpoint of that layout."""

from collections.abc import Mapping
from typing import Any

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.advance import AdvanceLatents
from ..blocks.denoise.inpaint import JoinMaskChannels, KeepUnmasked
from ..blocks.denoise.predict import PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.image.encode import EncodeImage, EncodeStart, HideMasked, ShrinkMask
from ..blocks.image.read import ReadImage, ReadMask
from ..blocks.latents.start import (
    CountRows,
    CutSchedule,
    DrawNoise,
    DrawNoiseLike,
    MakeSchedule,
    NoiseImage,
    NoiseImageFully,
    ScaleNoise,
    SeedRandom,
    SpendNoise,
)  # fmt: skip
from ..blocks.text.clip import EncodePrompt, ExpandRows, MatchNegative
from ..graph import Block, Graph, Loop, named
from .family import Family
from .settings import read_config

SLOTS = {"guider": ["denoise.guider"]}


def text2image(size: int = 512, channels: int = 4, factor: int = 8, **_: Any) -> Graph:
    """A prompt becomes pictures."""
    return Graph(
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


def _encode_negative() -> Block:
    """The reference skips layers for the positive prompt only, so the negative one has a `clip_skip` of its own."""
    block = EncodePrompt()
    return named(block, prompt="negative_prompt", conditioning="negative", clip_skip="negative_clip_skip")


def image2image(size: int = 512, channels: int = 4, factor: int = 8, **_: Any) -> Graph:
    """A prompt changes a picture: as much of it as `strength` says."""
    return (
        text2image(size, channels, factor)
        .replace("noise", DrawNoiseLike())
        .insert("encode_image", EncodeImage(), before="noise")
        .insert("read", ReadImage(multiple=factor), before="encode_image")
        .insert("cut", CutSchedule(), after="schedule")
        .replace("start", NoiseImage())
        .as_preset("sd", "image2image")
    )


def inpaint(size: int = 512, channels: int = 4, factor: int = 8, unet_channels: int = 4, **_: Any) -> Graph:
    """A prompt paints what a mask leaves open."""
    graph = (
        image2image(size, channels, factor)
        .replace("read", ReadImage(multiple=factor, height=size, width=size))
        .replace("cut", CutSchedule(strength=1.0))
        .replace("start", NoiseImageFully())
    )
    joined = _inpaint_joined if unet_channels == 2 * channels + 1 else _inpaint_blended
    return (
        joined(graph)
        .insert("shrink", ShrinkMask(), after="encode_image")
        .insert("read_mask", ReadMask(multiple=factor, height=size, width=size), after="read")
        .as_preset("sd", "inpaint")
    )


def _inpaint_blended(graph: Graph) -> Graph:
    """With any U-Net: what lies outside the mask is put back after each step."""
    return (
        graph.insert("keep", KeepUnmasked(), after="denoise.advance")
        .wire("denoise.noise", "noise.latents")
        .insert("spend", SpendNoise(), after="noise")  # the reference encodes the masked image here, and draws for it
    )


def _inpaint_joined(graph: Graph) -> Graph:
    """With a U-Net that was trained to inpaint: it sees the mask and the masked picture as channels."""
    return (
        graph.insert("mask_channels", JoinMaskChannels(), after="denoise.predict")
        .insert("encode_masked", named(EncodeImage(), pixels="hidden", image_latents="masked_latents"), after="noise")
        .insert("hide", HideMasked(), after="noise")
        .replace("encode_image", EncodeStart())
    )


def settings(components: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes and channels, as the configs of the U-Net and the autoencoder have them."""
    unet, vae = (read_config(components.get(name)) for name in ("unet", "vae"))
    factor = 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1)
    channels = vae.get("latent_channels", unet.get("out_channels", 4))
    found = {"factor": factor, "channels": channels, "unet_channels": unet.get("in_channels", channels)}
    return {**found, "size": unet.get("sample_size", 64) * factor}


family = Family(
    name="sd",
    classes=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionModularPipeline",
    ),
    tasks={"text2image": text2image, "image2image": image2image, "inpaint": inpaint},
    settings=settings,
)
