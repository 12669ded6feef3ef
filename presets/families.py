"""The families of checkpoints: their pipeline classes, and the functions that make the graphs of their tasks.

A function is imported when it is called, so that this module, and with it the list of all presets, needs no torch.
"""

from collections.abc import Mapping
from typing import Any

from ..registry import LazyFunction
from .family import Family


def _function(path: str) -> LazyFunction:
    return LazyFunction(f"sfumato.presets.{path}")


def _tasks(module: str, *names: str) -> dict[str, LazyFunction]:
    return {name: _function(f"{module}:{name}") for name in names}


_COMPVIS: Mapping[str, Any] = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}  # Any: JSON values
"""Keys of CompVis' and Stability's samplers, which old configs and those of some schedulers lack."""

_SAMPLING = (
    "It samples in a way that is not here, with the components of Stable Diffusion. Write StableDiffusionPipeline as "
    "_class_name in its index to draw without it"
)
_TWO_GUIDES = "Its U-Net reads a picture, and is guided by that and by the prompt"
_BOXES = "Its U-Net reads boxes, and a phrase or a picture for each"
_NET_IN_UNET = "Its control net and its U-Net read features of each other, step by step"
_NOT_FLUX_1 = "Its transformer, text encoder and autoencoder are other models than those of Flux.1"

sd = Family(
    name="sd",
    classes=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionModularPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionAdapterPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    ),
    pag_classes=(
        "StableDiffusionPAGPipeline",
        "StableDiffusionPAGImg2ImgPipeline",
        "StableDiffusionPAGInpaintPipeline",
        "StableDiffusionControlNetPAGPipeline",
        "StableDiffusionControlNetPAGInpaintPipeline",
    ),
    tasks=_tasks("sd", "text2image", "image2image", "inpaint"),
    settings=_function("settings:SDSettings"),
    config_defaults={"scheduler": _COMPVIS},
    attach=_function("control:attach_unet_controls"),
    refuses={
        "StableDiffusionUpscalePipeline": "Its U-Net reads a small picture and how much noise is on it",
        "StableDiffusionLatentUpscalePipeline": "Its U-Net reads small latents and denoises by other rules",
        "StableDiffusionDepth2ImgPipeline": "Its U-Net reads a depth map, which no block estimates",
        "StableDiffusionInstructPix2PixPipeline": _TWO_GUIDES,
        "StableDiffusionImageVariationPipeline": "Its U-Net reads a picture in place of a prompt",
        "StableUnCLIPPipeline": "Its U-Net reads what CLIP sees in a picture, which a prior makes of the prompt",
        "StableUnCLIPImg2ImgPipeline": "Its U-Net reads what CLIP sees in a picture",
        "StableDiffusionGLIGENPipeline": _BOXES,
        "StableDiffusionGLIGENTextImagePipeline": _BOXES,
        "StableDiffusionControlNetXSPipeline": _NET_IN_UNET,
        "StableDiffusionLDM3DPipeline": "Its autoencoder makes a depth map beside the picture",
        "StableDiffusionOnnxPipeline": "Its weights are ONNX files",
        "StableDiffusionAttendAndExcitePipeline": _SAMPLING,
        "StableDiffusionDiffEditPipeline": _SAMPLING,
        "StableDiffusionModelEditingPipeline": _SAMPLING,
        "StableDiffusionPanoramaPipeline": _SAMPLING,
        "StableDiffusionParadigmsPipeline": _SAMPLING,
        "StableDiffusionPix2PixZeroPipeline": _SAMPLING,
        "StableDiffusionSAGPipeline": _SAMPLING,
    },
)
sdxl = Family(
    name="sdxl",
    classes=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLModularPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        "StableDiffusionXLAdapterPipeline",
    ),
    pag_classes=(
        "StableDiffusionXLPAGPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline",
        "StableDiffusionXLPAGInpaintPipeline",
        "StableDiffusionXLControlNetPAGPipeline",
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
    ),
    tasks={
        **_tasks("sdxl", "text2image", "image2image", "inpaint"),
        "refined": _function("sdxl:text2image_refined"),
    },
    settings=_function("settings:SDXLSettings"),
    config_defaults={"scheduler": _COMPVIS},
    attach=_function("control:attach_unet_controls"),
    refuses={
        "StableDiffusionXLControlNetXSPipeline": _NET_IN_UNET,
        "StableDiffusionXLInstructPix2PixPipeline": _TWO_GUIDES,
    },
)
sd3 = Family(
    name="sd3",
    classes=(
        "StableDiffusion3Pipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline",
        "StableDiffusion3ModularPipeline",
        "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline",
    ),
    pag_classes=("StableDiffusion3PAGPipeline", "StableDiffusion3PAGImg2ImgPipeline"),
    tasks=_tasks("sd3", "text2image", "image2image", "inpaint"),
    settings=_function("settings:SD3Settings"),
    attach=_function("sd3:attach"),
)
flux = Family(
    name="flux",
    classes=(
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxModularPipeline",
    ),
    tasks=_tasks("flux", "text2image", "image2image", "inpaint", "fill", "kontext", "kontext_inpaint", "redux"),
    settings=_function("settings:FluxSettings"),
    attach=_function("flux_tools:attach"),
    part_classes={"FluxPriorReduxPipeline": "redux"},
    refuses={
        "Flux2Pipeline": _NOT_FLUX_1,
        "Flux2KleinPipeline": _NOT_FLUX_1,
        "Flux2KleinInpaintPipeline": _NOT_FLUX_1,
        "Flux2KleinKVPipeline": _NOT_FLUX_1,
        "Flux2ModularPipeline": _NOT_FLUX_1,
        "Flux2KleinModularPipeline": _NOT_FLUX_1,
        "Flux2KleinBaseModularPipeline": _NOT_FLUX_1,
        "Flux3ModularPipeline": _NOT_FLUX_1,
        "Flux3DistilledModularPipeline": _NOT_FLUX_1,
    },
)

flux_kontext = Family(
    name="flux-kontext",
    classes=("FluxKontextPipeline", "FluxKontextInpaintPipeline", "FluxKontextModularPipeline"),
    tasks={
        **_tasks("flux", "text2image", "kontext"),
        "inpaint": _function("flux:kontext_inpaint"),
        **_tasks("flux", "kontext_inpaint"),
    },
    settings=_function("settings:FluxSettings"),
    attach=_function("flux_tools:attach"),
)
pixart = Family(
    name="pixart",
    classes=("PixArtSigmaPipeline",),
    pag_classes=("PixArtSigmaPAGPipeline",),
    tasks=_tasks("pixart", "text2image", "image2image", "inpaint"),
    settings=_function("settings:PixArtSettings"),
)
pixart_alpha = Family(
    name="pixart-alpha",
    classes=("PixArtAlphaPipeline",),
    tasks=pixart.tasks,
    settings=_function("settings:PixArtAlphaSettings"),
)
