"""Nodes that make latents, sample, and decode."""

from dataclasses import replace

from ....graph.limits import limit
from .given import Given, Unmapped, translates
from .table_prompts import IMAGES, MASKS
from .values import (
    Cond,
    Decoded,
    Empty,
    Encoded,
    Enlarged,
    Guider,
    Model,
    Noise,
    Out,
    Padding,
    Picture,
    PictureMask,
    Sampled,
    Sampler,
    Several,
    Sigmas,
    Stage,
    Vae,
    Value,
)  # fmt: skip

LATENTS = (Empty, Encoded, Enlarged, Sampled, Out)
PROMPTS = (Cond, Several, Out)
_ON = ("enable", True)


# ------------------------------------------------------------------------------------------------- latents
@translates("EmptyLatentImage", "EmptySD3LatentImage", "EmptyHunyuanImageLatent", "EmptyChromaRadianceLatentImage",
            "EmptyFlux2LatentImage", "EmptyQwenImageLayeredLatentImage")  # fmt: skip
def _empty(given: Given) -> tuple[Value, ...]:
    return (Empty(given.setting("width", 512), given.setting("height", 512), given.setting("batch_size", 1)),)


@translates("VAEEncode", "VAEEncodeTiled")
def _encode(given: Given) -> tuple[Value, ...]:
    return (Encoded(given.any_of("pixels", *IMAGES), given.get("vae", Vae)),)


@translates("VAEEncodeForInpaint")
def _encode_inpaint(given: Given) -> tuple[Value, ...]:
    image, mask = given.any_of("pixels", *IMAGES), given.any_of("mask", *MASKS)
    if grow := given.whole("grow_mask_by", 6):
        given.note(f"the mask is not grown by {grow} pixels")
    return (Encoded(image, given.get("vae", Vae), mask, grow),)


@translates("SetLatentNoiseMask")
def _noise_mask(given: Given) -> tuple[Value, ...]:
    return (replace(given.get("samples", Encoded), mask=given.any_of("mask", *MASKS)),)


@translates("LatentUpscale", "LatentUpscaleBy")
def _enlarge(given: Given) -> tuple[Value, ...]:
    latents, method = given.any_of("samples", *LATENTS), given.text("upscale_method", "nearest-exact")
    if given.node.type == "LatentUpscaleBy":
        return (Enlarged(given.node.id, latents, method, by=given.number("scale_by", 1.5)),)
    if given.text("crop", "disabled") != "disabled":
        raise Unmapped("crop='center' of latents has no block")
    return (Enlarged(given.node.id, latents, method, size=(given.whole("width"), given.whole("height"))),)


@translates("RepeatLatentBatch")
def _repeat(given: Given) -> tuple[Value, ...]:
    latents = given.get("samples", Empty)
    if not isinstance(latents.batch, int):
        raise Unmapped("the size of its batch is known only in a run")
    return (replace(latents, batch=latents.batch * given.whole("amount", 1)),)


@translates("VAEDecode", "VAEDecodeTiled")
def _decode(given: Given) -> tuple[Value, ...]:
    tile = given.whole("tile_size", 512) if given.node.type == "VAEDecodeTiled" else None
    return (Decoded(given.node.id, given.any_of("samples", *LATENTS), given.get("vae", Vae), tile),)


# ------------------------------------------------------------------------------------------------- samplers
@translates("KSampler")
def _sample(given: Given) -> tuple[Value, ...]:
    sigmas = Sigmas(given.text("scheduler", "normal"), given.setting("steps", 20), given.setting("denoise", 1.0))
    return (
        _sampled(given, _guider(given), Sampler(given.text("sampler_name")), sigmas, Noise(given.setting("seed", 0))),
    )


@translates("KSamplerAdvanced")
def _sample_advanced(given: Given) -> tuple[Value, ...]:
    last = given.whole("end_at_step", 10000)
    sigmas = Sigmas(
        given.text("scheduler", "normal"), given.setting("steps", 20), start=given.whole("start_at_step", 0),
        end=None if last >= 10000 else last,
    )  # fmt: skip
    noise = Noise(given.setting("noise_seed", 0) if given.setting("add_noise", "enable") in _ON else None)
    leftover = given.setting("return_with_leftover_noise", "disable") in _ON
    return (_sampled(given, _guider(given), Sampler(given.text("sampler_name")), sigmas, noise, leftover),)


@translates("SamplerCustom")
def _sample_custom(given: Given) -> tuple[Value, ...]:
    noise = Noise(given.setting("noise_seed", 0) if given.setting("add_noise", True) in _ON else None)
    made = _sampled(given, _guider(given), given.get("sampler", Sampler), given.get("sigmas", Sigmas), noise)
    return made, made


@translates("SamplerCustomAdvanced")
def _sample_custom_advanced(given: Given) -> tuple[Value, ...]:
    guider, noise = given.get("guider", Guider), given.get("noise", Noise)
    made = _sampled(given, guider, given.get("sampler", Sampler), given.get("sigmas", Sigmas), noise)
    return made, made


def _sampled(
    given: Given, guider: Guider, sampler: Sampler, sigmas: Sigmas, noise: Noise, leftover: bool = False
) -> Sampled:
    latents = given.any_of("latent_image", *LATENTS)
    return Sampled(Stage(given.node.id, guider, latents, sampler, sigmas, noise, leftover), guider.model.family)


def _guider(given: Given) -> Guider:
    positive, negative = (given.any_of(name, *PROMPTS) for name in ("positive", "negative"))
    return Guider(given.get("model", Model), positive, negative, given.setting("cfg", 8.0))


@translates("CFGGuider")
def _cfg(given: Given) -> tuple[Value, ...]:
    return (_guider(given),)


@translates("BasicGuider")
def _basic(given: Given) -> tuple[Value, ...]:
    return (Guider(given.get("model", Model), given.any_of("conditioning", *PROMPTS), None, 1.0),)


@translates("KSamplerSelect")
def _select(given: Given) -> tuple[Value, ...]:
    return (Sampler(given.text("sampler_name")),)


@translates(
    "SamplerEulerAncestral",
    "SamplerDPMPP_2M_SDE",
    "SamplerDPMPP_3M_SDE",
    "SamplerDPMPP_SDE",
    "SamplerLMS",
    "SamplerLCM",
    "SamplerER_SDE",
)
def _named_sampler(given: Given) -> tuple[Value, ...]:
    name = {"EulerAncestral": "euler_ancestral"}.get(given.node.type[7:], given.node.type[7:].lower())
    changed = [f"{key}={value}" for key, value in given.values.items() if isinstance(value, int | float | str)]
    if changed:
        given.note(f"the settings of the sampler ({', '.join(changed)}) are those of the class here")
    return (Sampler(name),)


@translates("RandomNoise")
def _noise(given: Given) -> tuple[Value, ...]:
    return (Noise(given.setting("noise_seed", 0)),)


@translates("DisableNoise")
def _no_noise(given: Given) -> tuple[Value, ...]:
    return (Noise(None),)


# ------------------------------------------------------------------------------------------------- noise levels
@translates("BasicScheduler")
def _curve(given: Given) -> tuple[Value, ...]:
    return (Sigmas(given.text("scheduler", "normal"), given.setting("steps", 20), given.setting("denoise", 1.0)),)


@translates("KarrasScheduler", "ExponentialScheduler")
def _own_curve(given: Given) -> tuple[Value, ...]:
    curve = given.node.type.removesuffix("Scheduler").lower()
    given.note("the range is that of training; sigma_max, sigma_min and rho are not read")
    return (Sigmas(curve, given.setting("steps", 20)),)


@translates("BetaSamplingScheduler")
def _beta(given: Given) -> tuple[Value, ...]:
    given.note("alpha and beta are 0.6")
    return (Sigmas("beta", given.setting("steps", 20)),)


@translates("SDTurboScheduler")
def _turbo(given: Given) -> tuple[Value, ...]:
    """The timesteps 999, 899 …"""
    steps, first = given.whole("steps", 1), 10 - int(10 * given.number("denoise", 1.0))
    timesteps = tuple(range(999 - 100 * first, 0, -100))[:steps]
    if not timesteps:
        raise Unmapped("denoise leaves no step")
    return (Sigmas("", len(timesteps), timesteps=timesteps),)


@translates("ManualSigmas")
def _manual(given: Given) -> tuple[Value, ...]:
    try:
        levels = tuple(float(one) for one in given.text("sigmas").replace(",", " ").split())
    except ValueError:
        raise Unmapped("its text is no list of numbers") from None
    return (Sigmas("", max(len(levels) - 1, 1), levels=levels),)


@translates("SplitSigmas")
def _split(given: Given) -> tuple[Value, ...]:
    sigmas, at = given.get("sigmas", Sigmas), given.whole("step", 0)
    return replace(sigmas, end=sigmas.start + at), replace(sigmas, start=sigmas.start + at)


# ------------------------------------------------------------------------------------------------- pictures
@translates("LoadImage", "LoadImageOutput")
def _load(given: Given) -> tuple[Value, ...]:
    picture = Picture(given.node.id, given.text("image"))
    return picture, PictureMask(picture)


@translates("ImagePadForOutpaint")
def _pad(given: Given) -> tuple[Value, ...]:
    picture = given.get("image", Picture)
    if picture.pad is not None:
        raise Unmapped("its picture has margins already")
    pad = Padding(*(given.whole(name, 0) for name in ("left", "top", "right", "bottom", "feathering")))
    if min(pad) < 0 or max(pad) > limit("side"):
        raise Unmapped(f"a margin is not from 0 to {limit('side')}: {tuple(pad)}")
    if pad.feathering:
        given.note("its mask is soft at the edge, and inpainting paints where it is more than one half")
    picture = replace(picture, pad=pad)
    return picture, PictureMask(picture)


@translates("LoadImageMask")
def _load_mask(given: Given) -> tuple[Value, ...]:
    return (PictureMask(Picture(given.node.id, given.text("image")), given.text("channel", "alpha")),)
