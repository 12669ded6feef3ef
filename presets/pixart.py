"""PixArt-Sigma (Chen et al. 2024) and PixArt-Alpha (Chen et al. 2023), and every checkpoint of that layout."""

from collections.abc import Mapping
from typing import Any

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.advance import AdvanceLatents
from ..blocks.denoise.pixart import PredictNoise
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.latents.start import CountRows, DrawNoise, MakeSchedule, NoiseImageFully, ScaleNoise, SeedRandom
from ..blocks.text.pixart import EncodePrompt
from ..blocks.text.rows import ExpandRows, MatchNegative
from ..graph import Graph, Loop, named
from .edits import from_image, into_mask
from .settings import pixels_a_latent, read_config


def text2image(
    size: int = 1024,
    channels: int = 4,
    factor: int = 8,
    patch: int = 2,
    words: int = 300,
    preset: str = "pixart",
    **_: Any,
) -> Graph:
    """A prompt becomes pictures."""
    encode = EncodePrompt(max_sequence_length=words)
    return Graph(
        positive=named(encode, conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=named(encode, conditioning="negative", prompt="negative_prompt"),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        random=SeedRandom(),
        schedule=MakeSchedule(num_inference_steps=20),
        noise=DrawNoise(channels=channels, factor=factor, patch=patch, height=size, width=size),
        start=ScaleNoise(),
        denoise=Loop(
            over="steps",
            each="step",
            carry=("latents", "random"),
            body=Graph(
                predict=PredictNoise(factor=factor),
                guider=ClassifierFreeGuidance(guidance_scale=4.5),
                advance=AdvanceLatents(),
            ),
        ),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=(preset, "text2image"),
    )


def image2image(factor: int = 8, patch: int = 2, preset: str = "pixart", **settings: Any) -> Graph:
    """A prompt changes a picture: as much of it as `strength` says."""
    graph = text2image(factor=factor, patch=patch, preset=preset, **settings)
    return from_image(graph, factor * patch).as_preset(preset, "image2image")


def inpaint(size: int = 1024, factor: int = 8, patch: int = 2, preset: str = "pixart", **settings: Any) -> Graph:
    """A prompt paints what a mask leaves open: what lies outside is put back after each step."""
    graph = image2image(size=size, factor=factor, patch=patch, preset=preset, **settings)
    return (
        into_mask(graph, size, factor * patch, joined=False)
        .replace("start", NoiseImageFully())
        .as_preset(preset, "inpaint")
    )


def settings(components: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes and channels, as the configs of the transformer and the autoencoder have them."""
    transformer, vae = (read_config(components.get(name)) for name in ("transformer", "vae"))
    factor = pixels_a_latent(vae)
    size, channels = transformer.get("sample_size", 128) * factor, transformer.get("in_channels", 4)
    return {"factor": factor, "size": size, "channels": channels, "patch": transformer.get("patch_size", 2)}
