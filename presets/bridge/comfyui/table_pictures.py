"""Nodes that change pictures, masks and encoded prompts in a run."""

from collections.abc import Callable, Mapping
from typing import Any

from ....blocks.image.edges import DetectEdges
from ....blocks.image.edit import (
    BlurImages,
    CropImages,
    FillMask,
    GrowMask,
    InvertMask,
    PasteImages,
    ReadChannel,
    ShowMask,
    StitchImages,
    TakeImages,
)
from ....blocks.text.joined import ConcatConditioning, MixConditioning
from ....graph import Block
from .given import Unmapped
from .run_blocks import Make, Settings, node


def _picture(kind: str, inputs: Mapping[str, str] | None = None) -> Callable[[Make], Make]:
    return node(kind, inputs={"image": "images", **(inputs or {})}, outputs=("images",))


def _mask(kind: str) -> Callable[[Make], Make]:
    return node(kind, outputs=("mask",))


# ------------------------------------------------------------------------------------------------- pictures
@_picture("Canny")
def _edges(settings: Settings) -> Block:
    low, high = (
        float(settings.get(name, default)) for name, default in (("low_threshold", 0.4), ("high_threshold", 0.8))
    )
    return DetectEdges(low=min(low, high), high=high)


@_picture("ImageBlur")
def _blur(settings: Settings) -> Block:
    return BlurImages(radius=int(settings.get("blur_radius", 1)), sigma=max(float(settings.get("sigma", 1.0)), 0.01))


@_picture("ImageSharpen")
def _sharpen(settings: Settings) -> Block:
    return BlurImages(
        radius=int(settings.get("sharpen_radius", 1)), sigma=max(float(settings.get("sigma", 1.0)), 0.01),
        sharpen=10 * float(settings.get("alpha", 1.0)),
    )  # fmt: skip


@_picture("ImageFromBatch")
def _take(settings: Settings) -> Block:
    return TakeImages(first=int(settings.get("batch_index", 0)), length=int(settings.get("length", 1)))


@_picture("ImageCrop")
def _crop(settings: Settings) -> Block:
    return CropImages(**{ours: int(settings.get(theirs, 0)) for ours, theirs in _CROP.items()})


_CROP = {"left": "x", "top": "y", "width": "width", "height": "height"}


@node("ImageCompositeMasked", inputs={"destination": "images"}, outputs=("images",))
def _paste(settings: Settings) -> Block:
    return PasteImages(
        left=int(settings.get("x", 0)), top=int(settings.get("y", 0)),
        resize=bool(settings.get("resize_source", False)),
    )  # fmt: skip


@node("ImageStitch", inputs={"image1": "images", "image2": "more"}, outputs=("images",))
def _stitch(settings: Settings) -> Block:
    side: Any = settings.get("direction", "right")
    colour = str(settings.get("spacing_color", "white"))
    if colour not in _GREYS:
        raise Unmapped(f"spacing_color={colour!r} has no block")
    return StitchImages(
        side=side, match=bool(settings.get("match_image_size", True)), spacing=int(settings.get("spacing_width", 0)),
        colour=_GREYS[colour],
    )  # fmt: skip


_GREYS = {"white": 1.0, "black": 0.0}


# ------------------------------------------------------------------------------------------------- masks
@node("ImageToMask", inputs={"image": "images"}, outputs=("mask",))
def _channel(settings: Settings) -> Block:
    channel: Any = settings.get("channel", "red")
    if channel == "alpha":
        raise Unmapped("a picture has no alpha channel here; LoadImage gives it as a mask")
    return ReadChannel(channel=channel)


@node("MaskToImage", outputs=("images",))
def _show(settings: Settings) -> Block:
    return ShowMask()


@_mask("InvertMask")
def _invert(settings: Settings) -> Block:
    return InvertMask()


@_mask("GrowMask")
def _grow(settings: Settings) -> Block:
    return GrowMask(pixels=int(settings.get("expand", 0)), corners=not settings.get("tapered_corners", True))


@_mask("SolidMask")
def _fill(settings: Settings) -> Block:
    return FillMask(
        level=float(settings.get("value", 1.0)), width=int(settings.get("width", 512)),
        height=int(settings.get("height", 512)),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- prompts
_JOINED = {"conditioning_to": "conditioning", "conditioning_from": "other"}


@node("ConditioningConcat", inputs=_JOINED, outputs=("conditioning",))
def _concat(settings: Settings) -> Block:
    return ConcatConditioning()


@node("ConditioningAverage", inputs=_JOINED, outputs=("conditioning",))
def _average(settings: Settings) -> Block:
    return MixConditioning(share=float(settings.get("conditioning_to_strength", 1.0)))
