"""Flux.1 (Black Forest Labs 2024): dev and schnell, Fill and Kontext, and every checkpoint of that layout."""

from collections.abc import Mapping
from typing import Any

from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.advance import AdvanceLatents
from ..blocks.denoise.flux import PredictFlow
from ..blocks.denoise.shown import ShowMasked, ShowReference
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.image.encode import EncodeImage, HideMasked
from ..blocks.image.kontext import EncodeReference, FitArea, ReadReference
from ..blocks.image.read import ReadImage, ReadMask
from ..blocks.latents.flow import CutSchedule, MakeSchedule
from ..blocks.latents.start import CountRows, DrawNoise, ScaleNoise, SeedRandom
from ..blocks.text.clip import ExpandRows
from ..blocks.text.flux import EncodePrompt, MatchNegative
from ..graph import Block, Graph, Loop, named
from .edits import from_image, into_mask
from .family import Family
from .settings import read_config

SLOTS = {"guider": ["denoise.guider"]}
SIZE = 1024  # pixels a side; no config of Flux says it
PATCH = 2  # latents a side of a token


def text2image(channels: int = 16, factor: int = 8, distilled: bool = True, **_: Any) -> Graph:
    """A prompt becomes pictures."""
    return Graph(
        positive=named(EncodePrompt(), conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=_encode_negative(),
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
                predict=_predict(3.5, distilled),
                guider=_true_guidance(),
                advance=AdvanceLatents(),
            ),
        ),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots=SLOTS,
        preset=("flux", "text2image"),
    )


def _encode_negative() -> Block:
    renamed = {"prompt": "negative_prompt", "prompt_2": "negative_prompt_2", "conditioning": "negative"}
    return named(EncodePrompt(), **renamed)


def _predict(guidance_scale: float, distilled: bool) -> Block:
    return PredictFlow(guidance_scale=guidance_scale if distilled else None)


def _true_guidance() -> Block:
    """Off at first. Its scale has a name of its own, since `guidance_scale` is what the model was distilled to read."""
    return named(ClassifierFreeGuidance(guidance_scale=1.0), guidance_scale="true_cfg_scale")


def image2image(channels: int = 16, factor: int = 8, distilled: bool = True, **_: Any) -> Graph:
    """A prompt changes a picture: as much of it as `strength` says."""
    multiple = factor * PATCH
    return (
        from_image(text2image(channels, factor, distilled), multiple)
        .replace("read", ReadImage(multiple=multiple, height=SIZE, width=SIZE))
        .replace("cut", CutSchedule())
        .replace("denoise.predict", _predict(7.0, distilled))
        .as_preset("flux", "image2image")
    )


def inpaint(channels: int = 16, factor: int = 8, distilled: bool = True, fills: bool = False, **_: Any) -> Graph:
    """A prompt paints what a mask leaves open: what lies outside is put back after each step."""
    if fills:
        return fill(channels, factor, distilled).as_preset("flux", "inpaint")
    graph = into_mask(image2image(channels, factor, distilled), SIZE, factor * PATCH, joined=False)
    return graph.as_preset("flux", "inpaint")


def fill(channels: int = 16, factor: int = 8, distilled: bool = True, **_: Any) -> Graph:
    """The same with a transformer trained for it (Fill): it sees the mask and the masked picture as channels."""
    return (
        image2image(channels, factor, distilled)
        .replace("schedule", MakeSchedule(patch=PATCH, num_inference_steps=50))
        .replace("cut", CutSchedule(strength=1.0))
        .replace("denoise.predict", _predict(30.0, distilled))
        .insert("show_masked", ShowMasked(), after="denoise.predict")
        .insert("encode_masked", named(EncodeImage(), pixels="hidden", image_latents="masked_latents"), after="noise")
        .insert("hide", HideMasked(), after="noise")
        .insert("read_mask", ReadMask(multiple=factor * PATCH, height=SIZE, width=SIZE), after="read")
        .as_preset("flux", "fill")
    )


def kontext(channels: int = 16, factor: int = 8, distilled: bool = True, **_: Any) -> Graph:
    """A prompt says what becomes of a picture that the transformer looks at (Kontext)."""
    return (
        text2image(channels, factor, distilled)
        .insert("show", ShowReference(), after="denoise.predict")
        .insert("fit", FitArea(multiple=factor * PATCH, height=SIZE, width=SIZE), before="noise")
        .insert("encode_reference", EncodeReference(), before="fit")
        .insert("read", ReadReference(multiple=factor * PATCH), before="encode_reference")
        .as_preset("flux", "kontext")
    )


def settings(components: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes and channels, as the configs of the transformer and the autoencoder have them."""
    transformer, vae = (read_config(components.get(name)) for name in ("transformer", "vae"))
    channels = vae.get("latent_channels", 16)
    return {
        "channels": channels,
        "factor": 2 ** (len(vae.get("block_out_channels", (0,) * 4)) - 1),
        "distilled": transformer.get("guidance_embeds", not transformer),  # published default: false
        "fills": transformer.get("in_channels", 4 * channels) > 4 * channels,
    }


family = Family(
    name="flux",
    classes=(
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxModularPipeline",
    ),
    tasks={"text2image": text2image, "image2image": image2image, "inpaint": inpaint, "fill": fill, "kontext": kontext},
    settings=settings,
)
kontext_family = Family(
    name="flux-kontext",
    classes=("FluxKontextPipeline", "FluxKontextModularPipeline"),
    tasks={"text2image": text2image, "kontext": kontext},
    settings=settings,
)
