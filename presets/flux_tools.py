"""Flux's graphs for its published tools: Fill, Kontext, Redux, Canny, Depth and control nets."""

from ..blocks.control.flux import ApplyControlLatents, ApplyControlNet, EncodeControl
from ..blocks.control.image_prompt import ImagePrompt
from ..blocks.denoise.extra_inputs import AddControlChannels, AddFillChannels, AddReferenceImage
from ..blocks.guiders.none import NoGuidance
from ..blocks.image.encode import EncodeImage, HideMasked
from ..blocks.image.kontext import ChooseReference, EncodeReference, FitArea, FitImage, ReadReference
from ..blocks.latents.start import DiscardNoise
from ..blocks.text.redux import AddImagePrompt, EncodeImagePrompt, MakeEmptyPrompt
from ..graph import Graph, named
from .control import IMAGE_PROMPTS, control_components, numbered, with_cropped_controls
from .settings import Components, FluxSettings
from .tasks import with_mask


def with_fill_channels(graph: Graph, settings: FluxSettings) -> Graph:
    """From an image2image graph: the transformer reads the mask and the masked picture as channels (Fill)."""
    graph = (
        graph.insert("add_fill_channels", AddFillChannels(), after="denoise.predict")
        .insert("encode_masked", named(EncodeImage(), pixels="hidden", image_latents="masked_latents"), after="noise")
        .insert("hide", HideMasked(), after="noise")
    )
    return with_mask(graph, settings.size, settings.multiple)


def with_reference_image(graph: Graph, settings: FluxSettings) -> Graph:
    """From a text2image graph: the transformer reads a picture as further tokens (Kontext, Labs et al. 2025)."""
    size, multiple = settings.size, settings.multiple
    return (
        graph.insert("add_reference", AddReferenceImage(), after="denoise.predict")
        .insert("fit", FitArea(multiple=multiple, height=size, width=size), before="noise")
        .insert("encode_reference", EncodeReference(), before="fit")
        .insert("read", ReadReference(multiple=multiple), before="encode_reference")
    )


def with_reference_or_image(graph: Graph, settings: FluxSettings) -> Graph:
    """From an inpaint graph: the transformer reads the inpainted picture, or another one, as further tokens (Kontext).

    The picture is painted at a size that Kontext was trained with, and encoded without noise.
    """
    multiple = settings.multiple
    encode = named(EncodeReference(), reference="pixels", reference_latents="image_latents")
    return (
        graph.insert("add_reference", AddReferenceImage(), after="denoise.predict")
        .replace("encode_image", encode)
        .insert("encode_reference", ChooseReference(multiple=multiple), after="encode_image")
        .insert("fit", FitImage(multiple=multiple), before="crop")
    )


def with_control_channels(graph: Graph, settings: FluxSettings) -> Graph:
    """From a text2image graph: the transformer reads a control picture as channels (Canny and Depth)."""
    size = settings.size
    encode = EncodeControl(multiple=settings.multiple, height=size, width=size)
    return graph.insert("add_control_channels", AddControlChannels(), after="denoise.predict").insert(
        "encode_control", encode, before="noise"
    )


def with_masked_image_drawn_first(graph: Graph) -> Graph:
    """From an inpaint graph with control channels: draw for the masked image, the control picture, then the image.

    The published order, so that a seed makes the published picture.
    """
    encode = graph["encode_control"]
    return (
        graph.remove("discard_noise")
        .remove("encode_control")
        .insert("discard_noise", DiscardNoise(), before="encode_image")
        .insert("encode_control", encode, before="encode_image")
    )


def with_image_prompt(graph: Graph, pooled_width: int) -> Graph:
    """From a text2image graph: pictures in place of a prompt (Redux). No text encoder is needed."""
    empty = named(MakeEmptyPrompt(pooled=pooled_width), conditioning="positive")
    return (
        graph.replace("denoise.guider", NoGuidance())
        .remove("expand_negative")
        .remove("negative")
        .remove("match")
        .replace("positive", named(AddImagePrompt(), conditioning="positive"))
        .insert("empty_prompt", empty, before="positive")
        .insert("encode_images", EncodeImagePrompt(), before="empty_prompt")
    )


def attach(graph: Graph, components: Components) -> Graph:
    """Insert the blocks of the checkpoint's control nets and image prompts.

    Control pictures are encoded, which draws noise, before all else: as published, so that a seed makes the published
    picture. A net that reads a guidance scale has the transformer's.
    """
    encode = EncodeControl(multiple=FluxSettings().read(components).multiple)
    scale = graph["denoise.predict"].config()["guidance_scale"]
    first = "read" if "read" in graph.nodes else "noise"
    for node, number, config in control_components(components):
        if config.get("_class_name") in IMAGE_PROMPTS:
            graph = graph.insert(node, numbered(ImagePrompt(), number), before="denoise.guider")
        if config.get("_class_name") != "FluxControlNetModel":
            continue
        reads_pixels = config.get("conditioning_embedding_channels") is not None
        apply = ApplyControlNet() if reads_pixels else ApplyControlLatents()
        apply = apply if scale is None else apply.with_(guidance_scale=scale)
        if not reads_pixels:
            graph = graph.insert(f"encode_{node}", numbered(encode, number), before=first)
        graph = graph.insert(node, numbered(apply, number), before="denoise.guider")
    return with_cropped_controls(graph)
