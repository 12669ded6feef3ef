"""From text2image to image2image and inpaint: the edits of a graph that families share."""

from ..blocks.denoise.extra_inputs import AddMaskChannels
from ..blocks.denoise.inpaint import KeepUnmasked
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.guiders.none import NoGuidance
from ..blocks.guiders.perturbed import PerturbedAttentionGuidance
from ..blocks.image.crop import CropToMask, PutBackCrop
from ..blocks.image.encode import EncodeImage, EncodeStart, HideMasked, ShrinkMask
from ..blocks.image.read import ReadImage, ReadMask
from ..blocks.latents.start import CutSchedule, DiscardNoise, DrawNoiseLike, NoiseImage
from ..graph import Block, Graph, named
from .settings import Components, number, read_config

NEGATIVE = {"prompt": "negative_prompt", "prompt_2": "negative_prompt_2", "clip_skip": "negative_clip_skip"}
"""Names for the negative prompt. `clip_skip` has one too: the reference skips layers for the positive prompt alone."""


def to_image2image(graph: Graph, multiple: int) -> Graph:
    """Start at a picture in place of pure noise. multiple: sides of pictures are multiples of so many pixels."""
    return (
        graph.replace("noise", DrawNoiseLike())
        .insert("encode_image", EncodeImage(), before="noise")
        .insert("read", ReadImage(multiple=multiple), before="encode_image")
        .insert("cut", CutSchedule(), after="schedule")
        .replace("start", NoiseImage())
    )


def to_inpaint(graph: Graph, size: int, multiple: int, *, reads_mask: bool) -> Graph:
    """From an image2image graph: paint where a mask is white, and keep the rest of the picture.

    size: pixels a side. reads_mask: the denoiser was trained to inpaint and reads the mask as channels. Any other has
    what lies outside the mask put back after each step.
    """
    read = ReadImage(multiple=multiple, height=size, width=size)
    graph = (_read_mask if reads_mask else _keep_unmasked)(graph.replace("read", read))
    return with_mask(graph.insert("shrink", ShrinkMask(), after="encode_image"), size, multiple)


def with_mask(graph: Graph, size: int, multiple: int) -> Graph:
    """From an image2image graph: read a mask, and paint a small region at full size where `padding_mask_crop` says so.

    size: pixels a side.
    """
    return (
        graph.insert("read_mask", ReadMask(multiple=multiple, height=size, width=size), after="read")
        .insert("crop", CropToMask(height=size, width=size), before="read")
        .insert("put_back", PutBackCrop(), after="decode")
        .wire("put_back.image", "inputs.image")
        .wire("put_back.mask_image", "inputs.mask_image")
    )


def with_perturbed_attention(graph: Graph, components: Components) -> Graph:
    """For an index that names a pipeline with perturbed-attention guidance: its guider, as published, in every step.

    The middle of a U-Net is perturbed. Of a transformer it is the block 1 and, since the published pattern `blocks.1`
    finds these too, the blocks 10 to 19.
    """
    guider = graph["denoise.guider"]
    if not isinstance(guider, ClassifierFreeGuidance):  # the denoiser reads the scale, and nothing guides
        return graph
    count = number(read_config(components.get("transformer")), "num_layers", 0)
    layers = tuple(i for i in range(count) if str(i).startswith("1"))
    perturbed = PerturbedAttentionGuidance(
        guidance_scale=guider.guidance_scale, perturbed_guidance_scale=3.0, perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0, perturbed_guidance_layers=layers or None,
    )  # fmt: skip
    return graph.replace("denoise.guider", perturbed)


def without_guider(graph: Graph, predict: Block) -> Graph:
    """For a U-Net that was distilled to read the guidance scale, such as an LCM: one pass, and no guidance after it."""
    return graph.replace("denoise.predict", predict).replace("denoise.guider", NoGuidance())


def _keep_unmasked(graph: Graph) -> Graph:
    return (
        graph.insert("keep", KeepUnmasked(), after="denoise.advance")
        .wire("denoise.start_noise", "noise.latents")
        # The reference encodes the masked image here, and draws noise for it.
        .insert("discard_noise", DiscardNoise(), after="noise")
    )


def _read_mask(graph: Graph) -> Graph:
    encode = named(EncodeImage(), pixels="hidden", image_latents="masked_latents")
    return (
        graph.insert("add_mask_channels", AddMaskChannels(), after="denoise.predict")
        .insert("encode_masked", encode, after="noise")
        .insert("hide", HideMasked(), after="noise")
        .replace("encode_image", EncodeStart())
    )
