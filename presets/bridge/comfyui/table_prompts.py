"""Nodes that make and change prompts."""

from collections.abc import Callable
from dataclasses import replace

from .given import Given, Unmapped, translates
from .values import (
    Clip,
    Cond,
    Control,
    Decoded,
    Encoded,
    Net,
    Out,
    Part,
    Picture,
    PictureMask,
    Seen,
    Several,
    Shown,
    Style,
    Vae,
    Value,
)

IMAGES = (Picture, Decoded, Out)
MASKS = (PictureMask, Out)


@translates("CLIPTextEncode")
def _text(given: Given) -> tuple[Value, ...]:
    return (_cond(given, prompt="text"),)


@translates("CLIPTextEncodeFlux")
def _flux(given: Given) -> tuple[Value, ...]:
    made = _cond(given, prompt="clip_l", prompt_2="t5xxl")
    return (replace(made, guidance=given.setting("guidance", 3.5)),)


@translates("CLIPTextEncodeSD3")
def _sd3(given: Given) -> tuple[Value, ...]:
    return (_cond(given, prompt="clip_l", prompt_2="clip_g", prompt_3="t5xxl"),)


@translates("CLIPTextEncodeSDXL")
def _sdxl(given: Given) -> tuple[Value, ...]:
    made = _cond(given, prompt="text_l", prompt_2="text_g")
    sizes = [f"{name}={given.values[name]}" for name in ("width", "height", "target_width") if name in given.values]
    given.note(f"the sizes ({', '.join(sizes)}) are those of the picture: pass original_size= and target_size=")
    return (made,)


@translates("CLIPTextEncodeSDXLRefiner")
def _refiner(given: Given) -> tuple[Value, ...]:
    given.note("the aesthetic score is the published one: pass aesthetic_score=")
    return (_cond(given, prompt="text"),)


def _cond(given: Given, **texts: str) -> Cond:
    clip = given.get("clip", Clip)
    return Cond(given.node.id, clip, {ours: given.setting(theirs, "") for ours, theirs in texts.items()}, clip.family)


@translates("ConditioningZeroOut")
def _zero(given: Given) -> tuple[Value, ...]:
    return (replace(given.get("conditioning", Cond), zeroed=True),)


# ------------------------------------------------------------------------------------------------- several prompts
def _parts(given: Given, name: str) -> Several:
    """The prompts of an input."""
    value = given.any_of(name, Cond, Several, Out)
    return value if isinstance(value, Several) else Several((Part(value),), value.family)


def _changed(given: Given, change: Callable[[Part], Part]) -> tuple[Value, ...]:
    several = _parts(given, "conditioning")
    return (replace(several, parts=tuple(map(change, several.parts))),)


@translates("ConditioningCombine")
def _combine(given: Given) -> tuple[Value, ...]:
    first, second = (_parts(given, f"conditioning_{number}") for number in (1, 2))
    return (Several((*first.parts, *second.parts), first.family or second.family),)


@translates("ConditioningSetArea", "ConditioningSetAreaPercentage")
def _area(given: Given) -> tuple[Value, ...]:
    left, top, width, height = (given.number(name, 0) for name in ("x", "y", "width", "height"))
    strength, pixels = given.number("strength", 1.0), given.node.type == "ConditioningSetArea"
    area = (left, top, width, height)
    return _changed(given, lambda part: replace(part, area=area, in_pixels=pixels, strength=strength))


@translates("ConditioningSetAreaStrength")
def _strength(given: Given) -> tuple[Value, ...]:
    strength = given.number("strength", 1.0)
    return _changed(given, lambda part: replace(part, strength=strength))


@translates("ConditioningSetMask")
def _mask(given: Given) -> tuple[Value, ...]:
    mask, strength = given.any_of("mask", *MASKS), given.number("strength", 1.0)
    if given.text("set_cond_area", "default") != "default":
        given.note("the denoiser sees the whole picture, and not the bounds of the mask alone")
    return _changed(given, lambda part: replace(part, mask=mask, strength=strength))


@translates("ConditioningSetTimestepRange")
def _range(given: Given) -> tuple[Value, ...]:
    start, stop = given.number("start", 0.0), given.number("end", 1.0)
    if not 0 <= start < stop <= 1:
        raise Unmapped("its range has no steps")
    return _changed(given, lambda part: replace(part, start=start, stop=stop))


@translates("FluxGuidance")
def _guidance(given: Given) -> tuple[Value, ...]:
    return (replace(given.get("conditioning", Cond), guidance=given.setting("guidance", 3.5)),)


@translates("ControlNetApply", "ControlNetApplyAdvanced", "ControlNetApplySD3", "ControlNetInpaintingAliMamaApply")
def _control(given: Given) -> tuple[Value, ...]:
    control = Control(
        given.get("control_net", Net), given.any_of("image", *IMAGES), given.setting("strength", 1.0),
        given.setting("start_percent", 0.0), given.setting("end_percent", 1.0),
        given.any_of("mask", *MASKS) if given.values.get("mask") is not None else None,
    )  # fmt: skip
    if given.node.type == "ControlNetApply":
        one = given.get("conditioning", Cond)
        return (replace(one, controls=(*one.controls, control)),)
    prompts = [given.get(name, Cond) for name in ("positive", "negative")]
    return tuple(replace(one, controls=(*one.controls, control)) for one in prompts)


@translates("ReferenceLatent")
def _reference(given: Given) -> tuple[Value, ...]:
    one = given.get("conditioning", Cond)
    latents = given.find("latent", Encoded)
    return (one if latents is None else replace(one, references=(*one.references, latents)),)


@translates("CLIPVisionEncode")
def _see(given: Given) -> tuple[Value, ...]:
    return (Seen(given.get("clip_vision", Net), given.any_of("image", *IMAGES)),)


@translates("StyleModelApply")
def _style(given: Given) -> tuple[Value, ...]:
    one, seen = given.get("conditioning", Cond), given.get("clip_vision_output", Seen)
    if given.text("strength_type", "multiply") != "multiply":
        given.note("strength_type is taken for 'multiply'")
    style = Style(given.get("style_model", Net), seen.vision, seen.image, given.setting("strength", 1.0))
    return (replace(one, styles=(*one.styles, style)),)


@translates("InpaintModelConditioning")
def _inpaint(given: Given) -> tuple[Value, ...]:
    image, mask, vae = given.any_of("pixels", *IMAGES), given.any_of("mask", *MASKS), given.get("vae", Vae)
    shown = Shown(image, mask)
    prompts = [replace(given.get(name, Cond), shown=shown) for name in ("positive", "negative")]
    noisy = bool(given.values.get("noise_mask", True))
    return *prompts, Encoded(image, vae, mask if noisy else None)


@translates("InstructPixToPixConditioning")
def _instruct(given: Given) -> tuple[Value, ...]:
    image, vae = given.any_of("pixels", *IMAGES), given.get("vae", Vae)
    prompts = [replace(given.get(name, Cond), shown=Shown(image)) for name in ("positive", "negative")]
    if prompts[0].family != "flux":
        raise Unmapped("the U-Net of InstructPix2Pix has no preset here")
    return *prompts, Encoded(image, vae)
