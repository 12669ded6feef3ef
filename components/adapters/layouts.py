"""The layouts in which adapters are saved: names of matrices, and the tensors of each kind of patch."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from .names import DENOISERS, ModelNames, Target
from .patches import Full, Hadamard, Kronecker, LowRank, Patch
from .pieces import folded
from .weight_patches import Generalized, Magnitude, Replacement, Rotation, Scaling

Layout = Literal["peft", "kohya", "comfy", "lycoris"]
LAYOUTS: tuple[Layout, ...] = ("peft", "kohya", "comfy", "lycoris")
OF_OUR_LAYERS: tuple[Layout, ...] = ("peft", "lycoris")
"""The layouts with a matrix for each layer of ours; the others have the authors' fused matrices."""
Parts = dict[str, Tensor]
"""The tensors of a patch, by the ends of their keys."""


# ------------------------------------------------------------------------------------------------ names of matrices
def matrices(layout: Layout, component: str, names: ModelNames) -> Mapping[str, tuple[str, Target]]:
    """The name of the matrix that holds each layer of ours, and all layers that it holds; by the path of the layer.

    Args:
        layout: of the file.
        component: its name in the graph.
        names: the matrices of its model.
    """
    own = {layer: (layer, Target((layer,))) for layer in names.shapes}
    denoiser = component in DENOISERS
    if denoiser and (layout == "comfy" or (layout == "kohya" and not _is_plain_unet(names))):
        own |= {layer: (theirs, target) for theirs, target in names.authors.items() for layer in target.layers}
    spelled = _spelling(layout, component, names)
    return {layer: (spelled(name), target) for layer, (name, target) in own.items()}


def _is_plain_unet(names: ModelNames) -> bool:
    """Whether it is the U-Net of Stable Diffusion 1 or 2, for which kohya's scripts flatten diffusers' names."""
    return names.class_name == "UNet2DConditionModel" and "add_embedding.linear_1" not in names.shapes


def _spelling(layout: Layout, component: str, names: ModelNames) -> Callable[[str], str]:
    denoiser, t5 = component in DENOISERS, names.class_name == "T5EncoderModel"
    match layout:
        case "peft":
            return lambda name: f"{component}.{name}"
        case "kohya" | "lycoris":
            number = "3" if t5 else component.removeprefix("text_encoder").strip("_") or "1"
            plain = "lora_unet_" if layout == "kohya" else "lycoris_"
            prefix = plain if denoiser else f"lora_te{number}_"
            return lambda name: prefix + name.replace(".", "_")
        case "comfy":
            tower = "t5xxl" if t5 else "clip_g" if component == "text_encoder_2" else _first_tower(names)
            prefix = "diffusion_model." if denoiser else f"text_encoders.{tower}.transformer."
            return lambda name: prefix + name


def _first_tower(names: ModelNames) -> str:
    width = names.shapes.get("text_model.final_layer_norm", (768,))[0]
    return "clip_h" if width == 1024 else "clip_l"


# ----------------------------------------------------------------------------------------------- tensors of patches
class Unfit(Exception):
    """A kind of patch that a layout cannot express."""


def parts_of(patch: Patch, layout: Layout, shape: torch.Size) -> Parts:
    """The tensors of a patch in a layout.

    Args:
        patch: any.
        layout: of the file.
        shape: that of the matrix.

    Raises:
        Unfit: a kind that the layout cannot express.
    """
    return _peft(patch, shape) if layout == "peft" else _lycoris(patch, layout, shape)


def layouts_for(patch: Patch, shape: torch.Size) -> list[Layout]:
    """The layouts that can express a patch of a matrix of this shape."""

    def can(layout: Layout) -> bool:
        try:
            parts_of(patch, layout, shape)
        except Unfit:
            return False
        return True

    return [layout for layout in LAYOUTS if can(layout)]


def _peft(patch: Patch, shape: torch.Size) -> Parts:
    """PEFT's names. The scale is in `lora_B`, since many programs read no header."""
    match patch:
        case LowRank():
            made = patch.factors(shape)
            parts = {
                "lora_A.weight": _like(made.down, shape),
                "lora_B.weight": folded(_like(made.up, shape), made.scale),
            }
            return parts | ({} if patch.bias is None else {"lora_B.bias": patch.bias})
        case Magnitude(inner=LowRank() as inner, by_columns=False, bias=None):
            axes = (1, -1, 1, 1) if len(shape) == 4 else (-1,)
            return _peft(inner, shape) | {"lora_magnitude_vector": patch.magnitude.reshape(axes)}
        case Rotation(on_input=True, limit=0.0, interleaved=False) if patch.halved:
            scale = {} if patch.rescale is None else {"boft_s": patch.rescale}
            return {"boft_R": patch.blocks, **scale}
        case Rotation(on_input=True, limit=0.0, interleaved=False, rescale=None) if len(patch.blocks) == 1:
            (blocks,) = patch.blocks
            rows, columns = torch.triu_indices(blocks.shape[-1], blocks.shape[-1], 1)
            return {"oft_R.weight": (blocks - blocks.mT)[:, rows, columns]}
        case Scaling() if patch.with_bias is not patch.on_input and len(shape) == 2:
            axes = (1, -1) if patch.on_input else (-1, 1)
            return {"ia3_l": patch.factor.float().reshape(axes) + 1}
        case _:
            raise Unfit


def _lycoris(patch: Patch, layout: Layout, shape: torch.Size) -> Parts:
    """The names of kohya's scripts and of LyCORIS, which ComfyUI reads too. The scale is in `alpha`."""
    match patch:
        case LowRank():
            bias = {} if patch.bias is None else {"diff_b": patch.bias}
            if patch.middle is None:
                factors = {"lora_down.weight": _like(patch.down, shape), "lora_up.weight": _like(patch.up, shape)}
            else:
                factors = {
                    "lora_down.weight": patch.down, "lora_mid.weight": patch.middle, "lora_up.weight": patch.up,
                }  # fmt: skip
            return factors | _alpha(patch.scale, patch.rank) | bias
        case Magnitude():
            axes = [1] * len(shape)
            axes[1 if patch.by_columns else 0] = -1
            bias = {} if patch.bias is None else {"diff_b": patch.bias}
            inner = {key: t for key, t in _lycoris(patch.inner, layout, shape).items() if key != "diff_b"}
            return inner | {"dora_scale": patch.magnitude.reshape(axes)} | bias
        case Hadamard():
            parts = {
                "hada_w1_a": patch.first[0], "hada_w1_b": patch.first[1],
                "hada_w2_a": patch.second[0], "hada_w2_b": patch.second[1],
            }  # fmt: skip
            if patch.cores is not None:
                parts |= {"hada_t1": patch.cores[0], "hada_t2": patch.cores[1]}
            return parts | _alpha(patch.scale, patch.rank) | _bias(patch)
        case Kronecker():
            return _kronecker(patch) | _bias(patch)
        case Rotation(on_input=False):
            blocks = patch.blocks if patch.interleaved else patch.blocks[0]
            rows = patch.blocks.shape[1] * patch.blocks.shape[2]
            parts = {"oft_blocks": blocks, "alpha": torch.tensor(patch.limit / rows)}
            return parts if patch.rescale is None else {**parts, "rescale": patch.rescale}
        case Scaling(with_bias=False):
            return {"weight": patch.factor, "on_input": torch.tensor(patch.on_input)}
        case Generalized():
            pairs = {"a1": patch.a1, "a2": patch.a2, "b1": patch.b1, "b2": patch.b2}
            scale = _alpha(patch.scale, patch.rank)
            return {f"{name}.weight": tensor for name, tensor in pairs.items()} | scale
        case Full():
            whole = {} if patch.whole is None else {"diff": folded(patch.whole.reshape(shape), patch.scale)}
            return whole | _bias(patch)
        case Replacement() if layout == "comfy":
            return {"set_weight": patch.weight}
        case _:
            raise Unfit


def _kronecker(patch: Kronecker) -> Parts:
    """LyCORIS reads no alpha where both factors are whole, so the scale is then in the left one."""
    whole = len(patch.left) == len(patch.right) == 1
    pair = patch.right if len(patch.right) == 2 else patch.left
    left = (folded(patch.left[0], patch.scale),) if whole else patch.left
    parts: Parts = {}
    for number, factors in ((1, left), (2, patch.right)):
        ends = ("",) if len(factors) == 1 else ("_a", "_b")
        parts |= {f"lokr_w{number}{end}": tensor for end, tensor in zip(ends, factors, strict=True)}
    if patch.core is not None:
        parts["lokr_t2"] = patch.core
    return parts if whole else parts | _alpha(patch.scale, len(pair[1]))


def _alpha(scale: float, rank: int) -> Parts:
    """`alpha`, from which readers get `scale` as `alpha / rank`."""
    return {"alpha": torch.tensor(scale * rank, dtype=torch.float32)}


def _bias(patch: Patch) -> Parts:
    return {} if patch.bias is None else {"diff_b": patch.bias}


def _like(factor: Tensor, shape: torch.Size) -> Tensor:
    """A factor with as many axes as its matrix; sides of a kernel that it does not have are 1."""
    sizes = factor.shape[:2] if len(shape) < 4 and factor.shape[2:].numel() == 1 else factor.shape
    return factor.reshape(*sizes, *[1] * (len(shape) - len(sizes)))


def kind_text(patch: Patch) -> str:
    """The kind of a patch, for errors."""
    match patch:
        case Magnitude():
            return f"DoRA on {'columns' if patch.by_columns else 'rows'} of {kind_text(patch.inner)}"
        case Rotation():
            which = "BOFT" if patch.halved or patch.interleaved else "OFT"
            return f"{which} on {'inputs' if patch.on_input else 'outputs'}"
        case _:
            names: Mapping[type[Patch], str] = {
                LowRank: "LoRA", Hadamard: "LoHa", Kronecker: "LoKr", Scaling: "IA3", Generalized: "GLoRA",
                Full: "whole differences", Replacement: "whole replacements",
            }  # fmt: skip
            return names[type(patch)]
