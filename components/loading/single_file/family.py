"""The family of a file's models, and the names of models in files without a family."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .configs import context_width
from .parts import Kind, Part


@dataclass(frozen=True)
class Single:
    """The names of a model in a file without a denoiser of a known family."""

    name: str
    classes: tuple[str, ...]
    """The published classes that read it; the first is the default."""
    library: str = "diffusers"
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The config keys that its shapes do not tell."""


_CLIP: Mapping[str, Any] = {"layer_norm_eps": 1e-05, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
TOWERS = ("CLIPTextModel", "CLIPTextModelWithProjection")
SINGLES: Mapping[Kind, Single] = {
    "unet": Single("unet", ("UNet2DConditionModel",)),  # one that no family draws with
    "controlnet": Single("controlnet", ("ControlNetModel",)),
    "controlnet_union": Single("controlnet", ("ControlNetUnionModel",)),
    "flux_controlnet": Single("controlnet", ("FluxControlNetModel",)),
    "sd3_controlnet": Single("controlnet", ("SD3ControlNetModel",)),
    "t2i_adapter": Single("adapter", ("T2IAdapter",)),
    "ip_adapter": Single("ip_adapter", ("ImagePromptAdapter",)),
    "flux_ip_adapter": Single("ip_adapter", ("FluxImagePromptAdapter",)),
    "sd3_ip_adapter": Single("ip_adapter", ("SD3ImagePromptAdapter",)),
    "vae": Single("vae", ("AutoencoderKL",)),
    "tiny_vae": Single("vae", ("AutoencoderTiny",)),
    "clip": Single("text_encoder", TOWERS, "transformers", _CLIP),
    "open_clip": Single("text_encoder", TOWERS, "transformers", _CLIP),
    "clip_vision": Single("image_encoder", ("CLIPVisionModelWithProjection",), "transformers"),
    # T5 of Flux and SD 3. Other T5 models are not published in one file.
    "t5": Single("t5", ("T5EncoderModel",), "transformers",
                 {"layer_norm_epsilon": 1e-06, "relative_attention_max_distance": 128}),
}  # fmt: skip


def family_of(parts: Sequence[Part]) -> str | None:
    """The family of a file with these models, by its denoiser; None without one."""
    by_kind = {part.kind: part for part in parts}
    for kind in ("flux", "sd3"):
        if kind in by_kind:
            return kind
    if (unet := by_kind.get("unet")) is None:
        return None
    context, tower = context_width(unet), by_kind.get("open_clip")
    if "label_emb.0.0.weight" in unet.original:
        # The refiner reads the larger tower alone, whose width its prompt has.
        return "sdxl_refiner" if context == (tower.width if tower else 1280) else "sdxl"
    return "sd2" if tower is not None or ("clip" not in by_kind and context == 1024) else "sd1"


def is_larger(tower: Part, by_kind: Mapping[str, Part]) -> bool:
    """Whether the only tower is the larger of its family's two. SDXL's prompt is as wide as both together."""
    if "unet" not in by_kind:
        return tower.width >= 1280
    return "open_clip" not in by_kind and 2 * tower.width > context_width(by_kind["unet"]) > tower.width


def numbered(parts: Iterable[Part]) -> dict[str, Part]:
    """The models of a file without a family. Text towers are numbered by their widths."""
    found: dict[str, Part] = {}
    for part in sorted((part for part in parts if part.kind in SINGLES), key=lambda part: part.width):
        name = SINGLES[part.kind].name
        count = sum(known == name or known.startswith(f"{name}_") for known in found)
        found[f"{name}_{count + 1}" if count else name] = part
    return found
