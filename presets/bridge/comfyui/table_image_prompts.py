"""Nodes of ComfyUI_IPAdapter_plus: pictures that the denoiser attends to (Ye et al. 2023)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from .given import Given, Unmapped, translates
from .table_prompts import IMAGES, MASKS
from .values import ImageAdapter, ImagePrompt, Model, ModelFile, Net, Setting, Value

FAMILIES = ("sd", "sdxl")
"""The families that the nodes are for."""
_VIT_H, _VIT_BIGG = (
    Net(ModelFile("clip_vision", f"CLIP-ViT-{name}.safetensors"), "CLIP_VISION")
    for name in ("H-14-laion2B-s32B-b79K", "bigG-14-laion2B-39B-b160k")
)
_PRESETS: Mapping[str, tuple[str, str]] = {
    "light": ("ip-adapter_sd15_light_v11.bin", ""),
    "standard": ("ip-adapter_sd15.safetensors", "ip-adapter_sdxl_vit-h.safetensors"),
    "vit-g": ("ip-adapter_sd15_vit-G.safetensors", "ip-adapter_sdxl.safetensors"),
    "plus (": ("ip-adapter-plus_sd15.safetensors", "ip-adapter-plus_sdxl_vit-h.safetensors"),
    "plus face": ("ip-adapter-plus-face_sd15.safetensors", "ip-adapter-plus-face_sdxl_vit-h.safetensors"),
    "full face": ("ip-adapter-full-face_sd15.safetensors", ""),
    "composition": ("ip_plus_composition_sd15.safetensors", "ip_plus_composition_sdxl.safetensors"),
}
"""The published files of the unified loader's presets, by how these begin: for Stable Diffusion and for SDXL."""


# ------------------------------------------------------------------------------------------------- loaders
@translates("IPAdapterModelLoader")
def _adapter(given: Given) -> tuple[Value, ...]:
    return (ImageAdapter(ModelFile("ipadapter", given.text("ipadapter_file"))),)


@translates("IPAdapterUnifiedLoader", "IPAdapterUnifiedLoaderCommunity")
def _unified(given: Given) -> tuple[Value, ...]:
    model, preset = given.get("model", Model), given.text("preset")
    _check_family(model)
    files = next((files for name, files in _PRESETS.items() if preset.lower().startswith(name)), ("", ""))
    if not (file := files[FAMILIES.index(model.family)]):
        raise Unmapped(f"the preset {preset!r} has no file for the family {model.family} here")
    vision = _VIT_BIGG if preset.lower().startswith("vit-g") else _VIT_H
    return model, ImageAdapter(ModelFile("ipadapter", file), vision)


# ------------------------------------------------------------------------------------------------- the prompt
@translates("IPAdapter", "IPAdapterAdvanced")
def _prompt(given: Given) -> tuple[Value, ...]:
    model, adapter = given.get("model", Model), given.get("ipadapter", ImageAdapter)
    _check_family(model)
    vision = given.find("clip_vision", Net) or adapter.vision
    if vision is None:
        raise Unmapped("it has no vision encoder. Link a CLIPVisionLoader into clip_vision")
    if any(word in adapter.file.name.lower() for word in ("faceid", "portrait")):
        raise Unmapped(f"{adapter.file.name!r} reads embeddings of faces, which no block here makes")
    if model.prompts and model.prompts[0].vision != vision.file:
        raise Unmapped("its vision encoder is another than that of the IP-Adapter before, and a graph has one")
    image = given.any_of("image", *IMAGES)
    for name, ours in (("combine_embeds", "concat"), ("embeds_scaling", "V only")):
        if (theirs := given.values.get(name, ours)) != ours:
            given.note(f"{name}={theirs!r} is not here; {ours!r} is used")
    prompt = ImagePrompt(
        adapter.file, vision.file, image, _scale(given, model.family), given.setting("start_at", 0.0),
        given.setting("end_at", 1.0),
        given.any_of("image_negative", *IMAGES) if given.values.get("image_negative") is not None else None,
        given.any_of("attn_mask", *MASKS) if given.values.get("attn_mask") is not None else None,
    )  # fmt: skip
    return (replace(model, prompts=(*model.prompts, prompt)),)


def _check_family(model: Model) -> None:
    if model.family not in FAMILIES:
        raise Unmapped(f"the node is for Stable Diffusion and SDXL, and the model is of the family {model.family}")


# ------------------------------------------------------------------------------------------------- weights of blocks
class Place(NamedTuple):
    """A transformer of a U-Net. number: in the order in which they run, of a total."""

    part: str
    block: str
    number: int
    total: int


def _places(down: Mapping[str, int], up: Mapping[str, int]) -> tuple[Place, ...]:
    blocks = [*((("down", name), n) for name, n in down.items()), (("mid", ""), 1),
              *((("up", name), n) for name, n in up.items())]  # fmt: skip
    each = [place for place, n in blocks for _ in range(n)]
    return tuple(Place(*place, number, len(each)) for number, place in enumerate(each))


PLACES: Mapping[str, tuple[Place, ...]] = {
    "sd": _places(dict.fromkeys(("block_0", "block_1", "block_2"), 2),
                  dict.fromkeys(("block_1", "block_2", "block_3"), 3)),
    "sdxl": _places(dict.fromkeys(("block_1", "block_2"), 2), dict.fromkeys(("block_0", "block_1"), 3)),
}  # fmt: skip
"""The transformers of the published U-Nets."""


def _eased(part: float) -> float:
    return 0.05 + 0.95 * part


def _from_middle(p: Place) -> float:
    return abs(p.number - p.total / 2) / (p.total / 2)


def _only(sd: Mapping[int, float], sdxl: Mapping[int, float]) -> Callable[[Place], float]:
    """Weights by the number of the transformer; 0 for others."""
    return lambda p: (sd if p.total == len(PLACES["sd"]) else sdxl).get(p.number, 0.0)


WEIGHTS: Mapping[str, Callable[[Place], float]] = {
    "ease in": lambda p: _eased(1 - p.number / p.total),
    "ease out": lambda p: _eased(p.number / p.total),
    "ease in-out": lambda p: _eased(1 - _from_middle(p)),
    "reverse in-out": lambda p: _eased(_from_middle(p)),
    "weak input": lambda p: 0.2 if p.part == "down" else 1.0,
    "weak middle": lambda p: 0.2 if p.part == "mid" else 1.0,
    "weak output": lambda p: 0.2 if p.part == "up" else 1.0,
    "strong middle": lambda p: 1.0 if p.part == "mid" else 0.2,
    "style transfer": _only(dict.fromkeys((0, 1, 2, 3, *range(9, 16)), 1.0), {6: 1.0}),
    "composition": _only({4: 0.25, 5: 1.0}, {3: 1.0}),
    "strong style transfer": _only(
        dict.fromkeys((0, 1, 2, 3, *range(6, 16)), 1.0), dict.fromkeys((0, 1, 2, *range(4, 11)), 1.0)
    ),
}
"""The part of the weight that each transformer has, by weight_type. "linear" is the weight everywhere."""
_SIMPLE = {"standard": "linear", "prompt is more important": "ease out"}
"""The names that the node IPAdapter has for some of them."""


def table_of(weight: float, kind: str, family: str) -> dict[str, Any]:
    """The weight of each transformer, as `ip_adapter_scale` takes it."""
    made: dict[str, Any] = {}
    for (part, block), places in groupby(PLACES[family], lambda p: (p.part, p.block)):
        scales = [weight * WEIGHTS[kind](place) for place in places]
        if part == "mid":
            made[part] = scales[0]
        else:
            made.setdefault(part, {})[block] = scales
    return made


def _scale(given: Given, family: str) -> Setting | Mapping[str, Any]:
    kind = given.text("weight_type", "linear")
    kind = _SIMPLE.get(kind, kind)
    if kind == "linear":
        return given.setting("weight", 1.0)
    if kind not in WEIGHTS:
        raise Unmapped(f"weight_type={kind!r} is not here; 'linear' and {len(WEIGHTS)} others are")
    return table_of(given.number("weight", 1.0), kind, family)
