"""What Flux's checkpoints say of themselves, and what its sisters make of its graphs: Fill, Kontext, Redux, control."""

from collections.abc import Mapping
from typing import Any

from ..blocks.control.flux import ApplyControlLatents, ApplyControlNet, EncodeControl
from ..blocks.denoise.extra_inputs import AddControlChannels, AddFillChannels, AddReferenceImage
from ..blocks.guiders.none import NoGuidance
from ..blocks.image.encode import EncodeImage, HideMasked
from ..blocks.image.kontext import EncodeReference, FitArea, ReadReference
from ..blocks.image.read import ReadMask
from ..blocks.text.redux import AddImagePrompt, EncodeImagePrompt, MakeEmptyPrompt
from ..graph import Block, Graph, named
from .settings import pixels_a_latent, read_config

PATCH = 2  # latents a side of a token


def settings(components: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes and channels, as the configs of the transformer and the autoencoder have them."""
    transformer, vae = (read_config(components.get(name)) for name in ("transformer", "vae"))
    channels = vae.get("latent_channels", 16)
    return {
        "channels": channels,
        "factor": pixels_a_latent(vae),
        "distilled": transformer.get("guidance_embeds", not transformer),  # published default: false
        "pooled": transformer.get("pooled_projection_dim", 768),
        "steers": transformer.get("in_channels") == 8 * channels,
        "fills": transformer.get("in_channels", 0) > 8 * channels,
    }


def filling(graph: Graph, size: int, multiple: int) -> Graph:
    """Of a graph from an image: show the transformer the mask and the masked picture as channels (Fill)."""
    return (
        graph.insert("add_fill_channels", AddFillChannels(), after="denoise.predict")
        .insert("encode_masked", named(EncodeImage(), pixels="hidden", image_latents="masked_latents"), after="noise")
        .insert("hide", HideMasked(), after="noise")
        .insert("read_mask", ReadMask(multiple=multiple, height=size, width=size), after="read")
    )


def looking(graph: Graph, size: int, multiple: int) -> Graph:
    """Show the transformer a picture to look at, as further tokens (Kontext, Labs et al. 2025)."""
    return (
        graph.insert("add_reference", AddReferenceImage(), after="denoise.predict")
        .insert("fit", FitArea(multiple=multiple, height=size, width=size), before="noise")
        .insert("encode_reference", EncodeReference(), before="fit")
        .insert("read", ReadReference(multiple=multiple), before="encode_reference")
    )


def steered(graph: Graph, size: int, multiple: int) -> Graph:
    """Show the transformer a control picture as channels (Canny and Depth)."""
    encode = EncodeControl(multiple=multiple, height=size, width=size)
    return graph.insert("add_control_channels", AddControlChannels(), after="denoise.predict").insert(
        "encode_control", encode, before="noise"
    )


def said_by_images(graph: Graph, pooled: int) -> Graph:
    """Prompt with images in place of words (Redux): no text encoder is needed."""
    return (
        graph.replace("denoise.guider", NoGuidance())
        .remove("expand_negative")
        .remove("negative")
        .remove("match")
        .replace("positive", named(AddImagePrompt(), conditioning="positive"))
        .insert("empty_prompt", named(MakeEmptyPrompt(pooled=pooled), conditioning="positive"), before="positive")
        .insert("encode_images", EncodeImagePrompt(), before="empty_prompt")
    )


def controlled(graph: Graph, components: Mapping[str, Any]) -> Graph:
    """Put in a block for each control net of a checkpoint: `controlnet`, and `controlnet_1` … with numbered inputs.

    Their pictures are encoded, and drawn, before all else: as published, so that a seed gives the published picture.
    """
    encode = EncodeControl(multiple=settings(components)["factor"] * PATCH)
    first = "read" if "read" in graph.nodes else "noise"
    for name, component in components.items():
        kind, _, number = name.partition("_")
        config = read_config(component) if kind == "controlnet" and (not number or number.isdecimal()) else {}
        if config.get("_class_name") != "FluxControlNetModel":
            continue
        node = f"control_{number}" if number else "control"
        if config.get("conditioning_embedding_channels") is None:
            graph = graph.insert(f"encode_{node}", _numbered(encode, number), before=first)
            graph = graph.insert(node, _numbered(ApplyControlLatents(), number), before="denoise.guider")
        else:
            graph = graph.insert(node, _numbered(ApplyControlNet(), number), before="denoise.guider")
    return graph


def _numbered(block: Block, number: str) -> Block:
    own = ["control_image", "control_latents", "controlnet", "control_mode"]
    own += ["controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end"]
    s = block.signature
    there = [name for name in own if name in {**s.inputs, **s.outputs, **s.components}]
    return named(block, **{name: f"{name}_{number}" for name in there}) if number else block
