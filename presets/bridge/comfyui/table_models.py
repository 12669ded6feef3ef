"""Nodes that load models, and nodes that change how a model samples."""

from collections.abc import Mapping
from dataclasses import replace
from math import exp
from typing import Any

from .families import family_of_file
from .given import Given, Unmapped, translates
from .values import Clip, Lora, Model, ModelFile, Net, Vae, Value

UNKNOWN = "unknown"
"""The family of a file whose name says none."""


def _family(name: str, clip_type: str = "") -> str:
    return family_of_file(name, clip_type) or UNKNOWN


@translates("CheckpointLoaderSimple", "CheckpointLoader", "CheckpointLoaderNF4", "unCLIPCheckpointLoader")
def _checkpoint(given: Given) -> tuple[Value, ...]:
    name = given.text("ckpt_name")
    file, family = ModelFile("checkpoints", name), family_of_file(name) or "sd"
    if not family_of_file(name):
        given.note(f"the name {name!r} says no family; taken for Stable Diffusion")
    return Model(file, family), Clip((file,), family), Vae(file, family), Net(file, "CLIP_VISION")


@translates("UNETLoader", "UnetLoaderGGUF", "UnetLoaderGGUFAdvanced")
def _unet(given: Given) -> tuple[Value, ...]:
    name = given.text("unet_name")
    kind = str(given.values.get("weight_dtype", "default"))
    if kind != "default":
        given.note(f"weight_dtype={kind} is not read: pass dtype= or quantization=")
    return (Model(ModelFile("diffusion_models", name), _family(name)),)


@translates(
    "CLIPLoader",
    "DualCLIPLoader",
    "TripleCLIPLoader",
    "QuadrupleCLIPLoader",
    "CLIPLoaderGGUF",
    "DualCLIPLoaderGGUF",
    "TripleCLIPLoaderGGUF",
)
def _clip(given: Given) -> tuple[Value, ...]:
    names = [given.text(name) for name in sorted(given.values) if name.startswith("clip_name")]
    kind = {"TripleCLIPLoader": "sd3", "TripleCLIPLoaderGGUF": "sd3", "QuadrupleCLIPLoader": "hidream"}
    family = _family("", kind.get(given.node.type) or given.text("type", "stable_diffusion"))
    return (Clip(tuple(ModelFile("text_encoders", name) for name in names), family),)


@translates("VAELoader")
def _vae(given: Given) -> tuple[Value, ...]:
    return (Vae(ModelFile("vae", given.text("vae_name")), ""),)


@translates("ControlNetLoader", "DiffControlNetLoader")
def _controlnet(given: Given) -> tuple[Value, ...]:
    return (Net(ModelFile("controlnet", given.text("control_net_name")), "CONTROL_NET"),)


@translates("SetUnionControlNetType")
def _union(given: Given) -> tuple[Value, ...]:
    given.note(f"the type {given.values.get('type')!r} is not read: pass control_mode=")
    return (given.get("control_net", Net),)


@translates("CLIPVisionLoader")
def _vision(given: Given) -> tuple[Value, ...]:
    return (Net(ModelFile("clip_vision", given.text("clip_name")), "CLIP_VISION"),)


@translates("StyleModelLoader")
def _style(given: Given) -> tuple[Value, ...]:
    return (Net(ModelFile("style_models", given.text("style_model_name")), "STYLE_MODEL"),)


@translates("LoraLoader", "LoraLoaderModelOnly")
def _lora(given: Given) -> tuple[Value, ...]:
    model, strength = given.get("model", Model), given.number("strength_model", 1.0)
    name = ModelFile("loras", given.text("lora_name"))
    if given.node.type == "LoraLoaderModelOnly":
        return (replace(model, loras=(*model.loras, Lora(name, strength, 0.0))),)
    lora = Lora(name, strength, given.number("strength_clip", 1.0))
    clip = given.find("clip", Clip)
    return replace(model, loras=(*model.loras, lora)), clip and replace(clip, loras=(*clip.loras, lora))


@translates("CLIPSetLastLayer")
def _skip(given: Given) -> tuple[Value, ...]:
    clip = given.get("clip", Clip)
    return (replace(clip, skip=-given.whole("stop_at_clip_layer", -1) - 1),)


@translates("T5TokenizerOptions")
def _t5(given: Given) -> tuple[Value, ...]:
    given.note("the padding of T5 is that of the family")
    return (given.get("clip", Clip),)


# ------------------------------------------------------------------------------------------------- sampling
def _with_keys(given: Given, **keys: object) -> tuple[Value, ...]:
    model = given.get("model", Model)
    return (replace(model, scheduler={**model.scheduler, **keys}),)


@translates("ModelSamplingSD3", "ModelSamplingAuraFlow")
def _shift(given: Given) -> tuple[Value, ...]:
    return _with_keys(given, shift=given.number("shift", 3.0))


@translates("ModelSamplingFlux")
def _flux_shift(given: Given) -> tuple[Value, ...]:
    """A line through two sizes, in the logarithm of the shift."""
    low, high = given.number("base_shift", 0.5), given.number("max_shift", 1.15)
    tokens = given.number("width", 1024) * given.number("height", 1024) / (8 * 8 * 2 * 2)
    return _with_keys(given, shift=exp(low + (high - low) * (tokens - 256) / (4096 - 256)))


@translates("ModelSamplingDiscrete")
def _discrete(given: Given) -> tuple[Value, ...]:
    kind, zero = given.text("sampling", "eps"), bool(given.values.get("zsnr", False))
    predicts = {"eps": "epsilon", "v_prediction": "v_prediction", "x0": "sample"}
    if kind not in predicts:
        raise Unmapped(f"sampling={kind!r} has no counterpart here")
    return _with_keys(given, prediction_type=predicts[kind], **({"rescale_betas_zero_snr": True} if zero else {}))


@translates("FreeU", "FreeU_V2")
def _freeu(given: Given) -> tuple[Value, ...]:
    settings = {name: given.number(name, default) for name, default in _FREEU.items()}
    return _tapped(given, "FreeU", {**settings, "version": 2 if given.node.type == "FreeU_V2" else 1})


@translates("TomePatchModel")
def _merging(given: Given) -> tuple[Value, ...]:
    return _tapped(given, "TokenMerging", {"ratio": given.number("ratio", 0.3)})


_FREEU = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}


def _tapped(given: Given, name: str, settings: Mapping[str, Any]) -> tuple[Value, ...]:
    model = given.get("model", Model)
    if model.family not in ("sd", "sdxl"):
        raise Unmapped("it changes layers of a U-Net, which the family does not have")
    return (replace(model, taps=(*model.taps, (name, settings))),)


@translates("RescaleCFG")
def _rescale(given: Given) -> tuple[Value, ...]:
    return (replace(given.get("model", Model), rescale=given.number("multiplier", 0.7)),)


@translates("PerturbedAttentionGuidance")
def _pag(given: Given) -> tuple[Value, ...]:
    settings = {"perturbed_guidance_scale": given.number("scale", 3.0)}
    return (replace(given.get("model", Model), guider=("PerturbedAttentionGuidance", settings)),)


@translates("SkipLayerGuidanceSD3", "SkipLayerGuidanceDiT")
def _slg(given: Given) -> tuple[Value, ...]:
    listed = given.text("layers", given.text("double_layers", "7, 8, 9"))
    settings = {
        "skip_layer_guidance_scale": given.number("scale", 3.0),
        "skip_layer_guidance_start": given.number("start_percent", 0.01),
        "skip_layer_guidance_stop": given.number("end_percent", 0.15),
        "skip_layer_guidance_layers": tuple(int(one) for one in listed.replace(",", " ").split()),
    }
    return (replace(given.get("model", Model), guider=("SkipLayerGuidance", settings)),)


@translates("CFGZeroStar")
def _zero_star(given: Given) -> tuple[Value, ...]:
    return (replace(given.get("model", Model), guider=("ClassifierFreeZeroStarGuidance", {})),)


@translates("DifferentialDiffusion")
def _differential(given: Given) -> tuple[Value, ...]:
    given.note("the mask is used in all steps; the recipe 'differential diffusion' has a block for grey masks")
    return (given.get("model", Model),)


@translates("ModelAttentionBackend", "PathchSageAttentionKJ", "TorchCompileModel")
def _faster(given: Given) -> tuple[Value, ...]:
    given.note("it changes the speed and not the picture")
    return (given.get("model", Model),)
