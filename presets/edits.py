"""From an image, into a mask: what the graphs of U-Net families have in common, as edits of one from words alone."""

from ..blocks.denoise.extra_inputs import AddMaskChannels
from ..blocks.denoise.inpaint import KeepUnmasked
from ..blocks.guiders.none import NoGuidance
from ..blocks.image.crop import CropToMask, PutBackCrop
from ..blocks.image.encode import EncodeImage, EncodeStart, HideMasked, ShrinkMask
from ..blocks.image.read import ReadImage, ReadMask
from ..blocks.latents.start import CutSchedule, DiscardNoise, DrawNoiseLike, NoiseImage
from ..graph import Block, Graph, named

NEGATIVE = {"prompt": "negative_prompt", "prompt_2": "negative_prompt_2", "clip_skip": "negative_clip_skip"}
"""The reference skips layers for the positive prompt only, so the negative one has a `clip_skip` of its own."""


def from_image(graph: Graph, factor: int) -> Graph:
    """Begin at an image in place of pure noise: as much of it changes as `strength` says."""
    return (
        graph.replace("noise", DrawNoiseLike())
        .insert("encode_image", EncodeImage(), before="noise")
        .insert("read", ReadImage(multiple=factor), before="encode_image")
        .insert("cut", CutSchedule(), after="schedule")
        .replace("start", NoiseImage())
    )


def into_mask(graph: Graph, size: int, factor: int, joined: bool) -> Graph:
    """Of a graph from an image: paint what a mask leaves open. `joined`: the U-Net was trained to inpaint."""
    return (
        (_joined if joined else _blended)(graph.replace("read", ReadImage(multiple=factor, height=size, width=size)))
        .insert("shrink", ShrinkMask(), after="encode_image")
        .insert("read_mask", ReadMask(multiple=factor, height=size, width=size), after="read")
        .insert("crop", CropToMask(height=size, width=size), before="read")
        .insert("put_back", PutBackCrop(), after="decode")
        .wire("put_back.image", "inputs.image")
        .wire("put_back.mask_image", "inputs.mask_image")
    )


def knowing_guidance(graph: Graph, predict: Block) -> Graph:
    """With a U-Net that was distilled to know guidance, as LCMs are: the scale is its own affair, so nothing guides."""
    return graph.replace("denoise.predict", predict).replace("denoise.guider", NoGuidance())


def _blended(graph: Graph) -> Graph:
    """With any U-Net: what lies outside the mask is put back after each step."""
    return (
        graph.insert("keep", KeepUnmasked(), after="denoise.advance")
        .wire("denoise.noise", "noise.latents")
        .insert(
            "discard_noise", DiscardNoise(), after="noise"
        )  # the reference encodes the masked image here, and draws for it
    )


def _joined(graph: Graph) -> Graph:
    """With a U-Net that was trained to inpaint: it sees the mask and the masked picture as channels."""
    return (
        graph.insert("add_mask_channels", AddMaskChannels(), after="denoise.predict")
        .insert("encode_masked", named(EncodeImage(), pixels="hidden", image_latents="masked_latents"), after="noise")
        .insert("hide", HideMasked(), after="noise")
        .replace("encode_image", EncodeStart())
    )
