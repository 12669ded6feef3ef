"""Stable Diffusion 3 and 3.5 (Esser et al. 2024), medium and large, and every checkpoint of that layout."""

from collections.abc import Mapping
from typing import Any

from ..blocks.control.sd3 import ApplyControlNet, ApplyInpaintControlNet
from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.advance import AdvanceLatents
from ..blocks.denoise.sd3 import PredictFlow
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.image.read import ReadImage
from ..blocks.latents.flow import CutSchedule, MakeSchedule
from ..blocks.latents.start import CountRows, DrawNoise, NoiseImageFully, ScaleNoise, SeedRandom
from ..blocks.text.rows import ExpandRows
from ..blocks.text.sd3 import EncodePrompt, EncodePromptWithoutT5, MatchNegative
from ..graph import Graph, Loop, named
from .control import attaching
from .edits import NEGATIVE, from_image, into_mask
from .settings import pixels_a_latent, read_config


def text2image(
    size: int = 1024,
    channels: int = 16,
    factor: int = 8,
    patch: int = 2,
    t5: bool = True,
    width: int = 4096,
    **_: Any,
) -> Graph:
    """A prompt becomes pictures."""
    encode = EncodePrompt() if t5 else EncodePromptWithoutT5(width=width)
    third = {"prompt_3": "negative_prompt_3"} if t5 else {}
    return Graph(
        positive=named(encode, conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=named(encode, conditioning="negative", **NEGATIVE, **third),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        random=SeedRandom(),
        noise=DrawNoise(channels=channels, factor=factor, patch=patch, height=size, width=size),
        schedule=MakeSchedule(even=False, patch=patch),
        start=ScaleNoise(),
        denoise=Loop(
            over="steps",
            each="step",
            carry=("latents", "random"),
            body=Graph(
                predict=PredictFlow(),
                guider=ClassifierFreeGuidance(guidance_scale=7.0),
                advance=AdvanceLatents(),
            ),
        ),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("sd3", "text2image"),
    )


def image2image(size: int = 1024, factor: int = 8, patch: int = 2, **settings: Any) -> Graph:
    """A prompt changes a picture: as much of it as `strength` says."""
    multiple = factor * patch
    return (
        from_image(text2image(size=size, factor=factor, patch=patch, **settings), multiple)
        .replace("read", ReadImage(multiple=multiple, height=size, width=size))
        .replace("cut", CutSchedule())
        .replace("schedule", MakeSchedule(num_inference_steps=50, even=False, patch=patch))
        .as_preset("sd3", "image2image")
    )


def inpaint(size: int = 1024, factor: int = 8, patch: int = 2, **settings: Any) -> Graph:
    """A prompt paints what a mask leaves open."""
    graph = image2image(size=size, factor=factor, patch=patch, **settings)
    return (
        into_mask(graph, size, factor * patch, joined=False)
        .replace("start", NoiseImageFully())
        .as_preset("sd3", "inpaint")
    )


def settings(components: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sizes and channels, as the configs of the transformer and the autoencoder have them; whether T5 is there."""
    transformer, vae = (read_config(components.get(name)) for name in ("transformer", "vae"))
    factor = pixels_a_latent(vae)
    given = {"text_encoder", "text_encoder_3"} & components.keys()
    return {
        "factor": factor,
        "size": transformer.get("sample_size", 128) * factor,
        "channels": vae.get("latent_channels", 16),
        "patch": transformer.get("patch_size", 2),
        "t5": not given or components.get("text_encoder_3") is not None,
        "width": transformer.get("joint_attention_dim", 4096),
    }


def attach(graph: Graph, components: Mapping[str, Any]) -> Graph:
    """Control nets that the checkpoint brings; those that were trained to inpaint read a mask too."""
    nets = [read_config(part) for name, part in components.items() if name.startswith("controlnet")]
    inpaints = any(net.get("extra_conditioning_channels") for net in nets)
    block = ApplyInpaintControlNet if inpaints else ApplyControlNet
    return attaching({"SD3ControlNetModel": block})(graph, components)
