"""Stable Diffusion 3 and 3.5 (Esser et al. 2024), medium and large, and every checkpoint of that layout."""

from ..blocks.control.sd3 import ApplyControlNet, ApplyInpaintControlNet
from ..blocks.decode.images import DecodeLatents, FinishImages
from ..blocks.denoise.sd3 import PredictFlow
from ..blocks.guiders.cfg import ClassifierFreeGuidance
from ..blocks.image.read import ReadImage
from ..blocks.latents.flow import CutSchedule, MakeSchedule
from ..blocks.latents.parts import BeginPart, EndPart, KeepSeed
from ..blocks.latents.start import CountRows, DrawNoise, NoiseImageFully, ScaleNoise, SeedRandom
from ..blocks.text.rows import ExpandRows
from ..blocks.text.sd3 import EncodePrompt, EncodePromptWithoutT5, MatchNegative
from ..graph import Block, Graph, named
from .control import Config, attach_controls
from .denoising import denoising_loop
from .settings import Components, SD3Settings
from .tasks import NEGATIVE, to_image2image, to_inpaint


def text2image(settings: SD3Settings = SD3Settings()) -> Graph:
    """Make pictures from a prompt."""
    encode = EncodePrompt() if settings.t5 else EncodePromptWithoutT5(width=settings.token_width)
    negative = {**NEGATIVE, "prompt_3": "negative_prompt_3"} if settings.t5 else NEGATIVE
    size, factor, patch = settings.size, settings.factor, settings.patch
    return Graph(
        positive=named(encode, conditioning="positive"),
        rows=CountRows(),
        match=MatchNegative(),
        negative=named(encode, conditioning="negative", **negative),
        expand_positive=named(ExpandRows(), conditioning="positive"),
        expand_negative=named(ExpandRows(), conditioning="negative"),
        random=SeedRandom(),
        keep_seed=KeepSeed(),
        noise=DrawNoise(channels=settings.channels, factor=factor, patch=patch, height=size, width=size),
        schedule=MakeSchedule(even=False, patch=patch),
        start=ScaleNoise(),
        begin=BeginPart(),
        denoise=denoising_loop(PredictFlow(), ClassifierFreeGuidance(guidance_scale=7.0)),
        end=EndPart(),
        decode=DecodeLatents(),
        finish=FinishImages(),
        outputs=("images",),
        slots={"guider": ["denoise.guider"]},
        preset=("sd3", "text2image"),
    )


def image2image(settings: SD3Settings = SD3Settings()) -> Graph:
    """Change a picture by a prompt, as much as `strength` says."""
    size, multiple = settings.size, settings.multiple
    return (
        to_image2image(text2image(settings), multiple)
        .replace("read", ReadImage(multiple=multiple, height=size, width=size))
        .replace("cut", CutSchedule())
        .replace("schedule", MakeSchedule(num_inference_steps=50, even=False, patch=settings.patch))
        .as_preset("sd3", "image2image")
    )


def inpaint(settings: SD3Settings = SD3Settings()) -> Graph:
    """Paint the white part of a mask by a prompt."""
    return (
        to_inpaint(image2image(settings), settings.size, settings.multiple, reads_mask=False)
        .replace("start", NoiseImageFully())
        .as_preset("sd3", "inpaint")
    )


def attach(graph: Graph, components: Components) -> Graph:
    """Insert the blocks of the checkpoint's control nets. Those that were trained to inpaint read a mask too."""

    def block_for(config: Config) -> Block | None:
        if config.get("_class_name") != "SD3ControlNetModel":
            return None
        return ApplyInpaintControlNet() if config.get("extra_conditioning_channels") else ApplyControlNet()

    return attach_controls(graph, components, block_for)
