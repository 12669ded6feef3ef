"""A workflow with one sampler as the preset of its family: loaders, prompts, latents, sampler, decoder, picture."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from .sampling import PROCESS, kept_by_floor, kept_by_flow, part_of
from .values import Cond, Control, Decoded, Empty, Encoded, Model, Out, Picture, Sampled, Several, Stage, Value


class Single(NamedTuple):
    """A workflow with one sampler. task: of the preset family."""

    decoded: Decoded
    stage: Stage
    model: Model
    positive: Cond
    negative: Cond | None
    task: str


def single_of(value: Value) -> Single | None:
    """The parts of a workflow whose only picture is this one; None where it is no plain pipeline."""
    if not isinstance(value, Decoded) or not isinstance(value.latents, Sampled):
        return None
    stage = value.latents.stage
    guider, sigmas = stage.guider, stage.sigmas
    if not isinstance(guider.positive, Cond) or isinstance(guider.negative, Out | Several) or guider.model.patches:
        return None
    if isinstance(stage.latents, Empty | Encoded) and not _has_out(value) and stage.noise.seed is not None:
        whole = sigmas.start == 0 and sigmas.end is None and not stage.leftover
        encoders = {
            (c.clip.files, c.clip.loras, c.clip.skip) for c in (guider.positive, guider.negative) if c is not None
        }
        task = _task(stage, guider.positive)
        if whole and len(encoders) == 1 and task:
            return Single(value, stage, guider.model, guider.positive, guider.negative, task)
    return None


def _has_out(value: Value) -> bool:
    """Whether anything in a value is made by a block of its own."""
    if isinstance(value, Out):
        return True
    if isinstance(value, Mapping):
        return any(map(_has_out, value.values()))
    if isinstance(value, tuple | list):
        return any(map(_has_out, value))
    return is_dataclass(value) and any(_has_out(getattr(value, f.name)) for f in fields(value))


def _task(stage: Stage, positive: Cond) -> str:
    """The task of the family; "" where it has none for this."""
    latents, flux = stage.latents, stage.guider.model.family == "flux"
    if positive.references:
        return "kontext" if flux and len(positive.references) == 1 and _reads(positive) == 1 else ""
    if positive.shown is not None and positive.shown.mask is None:
        return "text2image" if flux else ""  # it reads the picture as channels
    if isinstance(latents, Encoded):
        return "inpaint" if latents.mask is not None or positive.shown is not None else "image2image"
    return "text2image"


def _reads(positive: Cond) -> int:
    return sum(isinstance(one, Encoded) and isinstance(one.image, Picture) for one in positive.references)


# ------------------------------------------------------------------------------------------------- inputs of a call
def inputs_of(single: Single) -> dict[str, Any]:  # values of any input
    """The inputs of the preset's graph by name, as the workflow has them. Pictures are names of files."""
    stage, family, task = single.stage, single.model.family, single.task
    made: dict[str, Any] = {**_texts(single), "seed": stage.noise.seed}
    made |= _levels(single)
    cfg = stage.guider.cfg if single.negative is not None else 1.0
    if family == "flux":
        made["guidance_scale"] = 3.5 if single.positive.guidance is None else single.positive.guidance
        made |= {"true_cfg_scale": cfg} if cfg != 1 else {}
    else:
        made["guidance_scale"] = cfg
    if single.model.rescale:
        made["guidance_rescale"] = single.model.rescale
    latents = stage.latents
    if isinstance(latents, Empty):
        made |= {"height": latents.height, "width": latents.width}
        made |= {"num_images_per_prompt": latents.batch} if latents.batch != 1 else {}
    if family == "flux":
        made |= _pictures_of_flux(single)
    elif isinstance(latents, Encoded):
        made["image"] = latents.image
        made |= {"mask_image": latents.mask} if latents.mask is not None else {}
    made |= net_inputs(single.model, single.positive.controls)
    for i, style in enumerate(single.positive.styles):
        number = f"_{i + 1}" if i else ""
        made[f"style_image{number}"] = style.image
    return {name: value for name, value in made.items() if task or value is not None}


def net_inputs(model: Model, controls: Sequence[Control]) -> dict[str, Any]:
    """The inputs of control nets and image prompts."""
    made: dict[str, Any] = {}
    for i, control in enumerate(controls):
        number = f"_{i}" if i else ""
        made |= {
            f"control_image{number}": control.image,
            f"controlnet_conditioning_scale{number}": control.strength,
            f"control_guidance_start{number}": control.start,
            f"control_guidance_end{number}": control.end,
        }
        made |= {f"control_mask{number}": control.mask} if control.mask is not None else {}
    for i, prompt in enumerate(model.prompts):
        number = f"_{i}" if i else ""
        made |= {
            f"ip_adapter_image{number}": prompt.image,
            f"ip_adapter_scale{number}": prompt.scale,
            f"ip_adapter_start{number}": prompt.start,
            f"ip_adapter_end{number}": prompt.end,
        }
        made |= {f"negative_ip_adapter_image{number}": prompt.negative} if prompt.negative is not None else {}
        made |= {f"ip_adapter_masks{number}": prompt.mask} if prompt.mask is not None else {}
    return made


def _pictures_of_flux(single: Single) -> dict[str, Any]:
    latents, shown, task = single.stage.latents, single.positive.shown, single.task
    if task == "kontext":
        (reference,) = single.positive.references
        assert isinstance(reference, Encoded)
        return {"image": reference.image}
    if shown is not None and shown.mask is None:
        return {"control_image": shown.image}
    if shown is not None:
        return {"image": shown.image, "mask_image": shown.mask}
    if isinstance(latents, Encoded):
        return {"image": latents.image, **({"mask_image": latents.mask} if latents.mask is not None else {})}
    return {}


def _texts(single: Single) -> dict[str, Any]:
    made: dict[str, Any] = dict(single.positive.texts)
    negative = single.negative
    if negative is not None and not negative.zeroed and single.stage.guider.cfg != 1:
        made |= {f"negative_{name}": text for name, text in negative.texts.items()}
    return made


def _levels(single: Single) -> dict[str, Any]:
    sigmas, flow = single.stage.sigmas, PROCESS[single.model.family] == "flow"
    if sigmas.levels:
        return {"num_inference_steps": sigmas.steps, "sigmas": list(sigmas.levels)}
    if sigmas.timesteps:
        return {"num_inference_steps": sigmas.steps, "timesteps": list(sigmas.timesteps)}
    if single.task not in ("image2image", "inpaint"):
        return {"num_inference_steps": sigmas.steps}
    assert isinstance(sigmas.steps, int) and isinstance(sigmas.denoise, int | float)
    part = part_of(sigmas.steps, sigmas.denoise, kept_by_flow if flow else kept_by_floor)
    return {"num_inference_steps": part.steps, "strength": part.strength}
