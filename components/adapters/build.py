"""Make patches of the tensors of a file: their kinds, their scales, and errors for missing tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from ...graph.errors import LoadError
from .keys import Entry
from .patches import Full, Hadamard, Kronecker, LowRank, Patch, with_bias
from .scales import Scales
from .weight_patches import Generalized, Magnitude, Replacement, Rotation, Scaling

Parts = Mapping[str, Tensor]
TENSORS_OF_A_ROTATION = 3
_LONGEST_SERIES = 32
"""PEFT's own default is 5 terms."""


@dataclass(frozen=True)
class Kind:
    """A kind of patch: its name for reports, required and optional tensors, and the function that makes it."""

    name: str
    needs: frozenset[str]
    may: frozenset[str]
    make: "Callable[[Made], Patch]"


@dataclass(frozen=True)
class Made:
    """The tensors of one matrix, and the scales that the file states.

    component, matrix: its names for the config of PEFT.
    """

    parts: Parts
    scales: Scales
    component: str
    matrix: str

    def scale(self, rank: int) -> float:
        """`alpha / rank`: by the tensor beside the factors, else by the config of PEFT, else 1."""
        if "alpha" in self.parts:
            alpha = self.parts["alpha"].float().item()
            return alpha / rank if alpha else 1.0
        stated = self.scales.scale(self.component, self.matrix, rank)
        return 1.0 if stated is None else stated


def _low_rank(made: Made) -> Patch:
    parts = made.parts
    up, down = parts["up"], parts["down"]
    scale = made.scale(up.shape[1] if up.ndim > 1 else len(down))
    bias = parts.get("up_bias")
    if up.ndim < 2 or down.ndim < 2 or up.shape[1] != len(parts.get("middle", down)):
        raise ValueError("the ranks of both factors differ")
    patch = LowRank(down=down, up=up, middle=parts.get("middle"), scale=scale)
    return with_bias(patch, None if bias is None else bias.float() * scale)


def _adaptive(made: Made) -> Patch:
    """AdaLoRA (Zhang et al. 2023, eq. 3) in PEFT's form: `B (A * E) * alpha / (ranknum + 1e-5)`."""
    down, up, singular = (made.parts[f"{n}"] for n in ("adaptive_down", "adaptive_up", "singular"))
    rank = len(singular)
    alpha = made.scales.number(made.component, "lora_alpha", rank)
    return LowRank(down=down.float() * singular.float().reshape(-1, 1), up=up, scale=alpha / (rank + 1e-5))


def _hadamard(made: Made) -> Patch:
    parts = made.parts
    cores = (parts["hada_t1"], parts["hada_t2"]) if "hada_t1" in parts else None
    first, second = ((parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"]) for i in (1, 2))
    patch = Hadamard(first=first, second=second, cores=cores, scale=made.scale(len(first[1])))
    if len({patch.product_shape(i) for i in (0, 1)}) != 1:
        raise ValueError("the two matrices have different shapes")
    return patch


def _kronecker(made: Made) -> Patch:
    parts = made.parts
    left, right = (
        (parts[f"lokr_w{i}"],) if f"lokr_w{i}" in parts else (parts[f"lokr_w{i}_a"], parts[f"lokr_w{i}_b"])
        for i in (1, 2)
    )  # fmt: skip
    core = parts.get("lokr_t2")
    pair = right if len(right) == 2 else left
    config = made.scales.config(made.component)
    if "alpha" in config and config.get("r"):  # PEFT divides by r, also where both are whole
        scale = made.scales.number(made.component, "alpha", 1) / made.scales.number(made.component, "r", 1)
    else:
        scale = made.scale(len(pair[1])) if len(pair) == 2 else 1.0  # LyCORIS ignores alpha where both are whole
    patch = Kronecker(left=left, right=right, core=core, scale=scale)
    patch.shape(torch.Size())  # both factors of each pair go together
    return patch


def _rotation(made: Made) -> Patch:
    blocks = made.parts["oft_blocks"]
    stages = blocks if blocks.ndim > TENSORS_OF_A_ROTATION else blocks[None]
    alpha = made.parts["alpha"].float().item() if "alpha" in made.parts else 0.0
    _check_blocks(stages)
    rows = stages.shape[1] * stages.shape[2]
    return Rotation(
        blocks=stages,
        limit=alpha * rows,
        rescale=made.parts.get("rescale"),
        interleaved=blocks.ndim > TENSORS_OF_A_ROTATION,
    )


def _peft_rotation(made: Made) -> Patch:
    packed = made.parts["oft_R"].float()
    numbers = packed.shape[1]
    size = round((1 + (1 + 8 * numbers) ** 0.5) / 2)
    if packed.ndim != 2 or size * (size - 1) // 2 != numbers:  # before matrices of size x size are made
        raise ValueError("the rows are no triangles of square blocks")
    rows, columns = torch.triu_indices(size, size, 1)
    blocks = packed.new_zeros(len(packed), size, size)
    blocks[:, rows, columns] = packed
    terms = 0
    if made.scales.config(made.component).get("use_cayley_neumann", True):
        terms = int(made.scales.number(made.component, key := "num_cayley_neumann_terms", 5))
        if not 0 < terms <= _LONGEST_SERIES:
            raise LoadError(f"The config of the adapter needs {key} in 1…{_LONGEST_SERIES}. Got {terms}.")
    return Rotation(blocks=blocks[None], on_input=True, terms=terms)


def _check_blocks(blocks: Tensor) -> None:
    """ValueError for anything but stages of square blocks; several stages mix halves of blocks."""
    stages, _, size, columns = blocks.shape
    if size != columns or (stages > 1 and size % 2):
        raise ValueError("the blocks are not square, or have no halves")


def _peft_butterfly(made: Made) -> Patch:
    scale = made.parts.get("boft_s")
    _check_blocks(made.parts["boft_R"])
    return Rotation(blocks=made.parts["boft_R"], on_input=True, halved=True, rescale=scale)


def _scaling(made: Made) -> Patch:
    on_input = bool(made.parts["on_input"].float().reshape(-1)[0])
    return Scaling(factor=made.parts["weight"].flatten(), on_input=on_input)


def _peft_scaling(made: Made) -> Patch:
    factor = made.parts["ia3_l"]
    on_input = factor.ndim > 1 and factor.shape[0] == 1 and not (factor.ndim > 2 and factor.shape[1] == 1)
    if factor.ndim == 4:  # PEFT shapes both sides of a convolution (1, n, 1, 1); its config says which it is
        stated = made.scales.config(made.component).get("feedforward_modules") or ()
        stated = stated if isinstance(stated, list | tuple | set | frozenset) else ()
        on_input = any(made.matrix == name or made.matrix.endswith(f".{name}") for name in stated)
    return Scaling(factor=factor.float().flatten() - 1, on_input=on_input, with_bias=not on_input)


def _generalized(made: Made) -> Patch:
    a1, a2, b1, b2 = (made.parts[n] for n in ("a1", "a2", "b1", "b2"))
    if a1.shape[0] < a1.shape[1]:  # files of old versions have the two of each pair in the other order
        a1, a2, b1, b2 = a2, a1, b2, b1
    if a2[0].numel() != len(a1):
        raise ValueError("the product of both factors is not square")
    return Generalized(a1=a1, a2=a2, b1=b1, b2=b2, scale=made.scale(len(b2)))


def _full(made: Made) -> Patch:
    parts = made.parts
    return Full(whole=parts.get("diff", parts.get("w_norm")), bias=parts.get("diff_b", parts.get("b_norm")))


def _replacement(made: Made) -> Patch:
    return Replacement(weight=made.parts.get("set_weight", made.parts.get("scale", torch.empty(0))))


_LOKR = [{f"lokr_w1{a}" for a in left} | {f"lokr_w2{b}" for b in right}
         for left in (("",), ("_a", "_b")) for right in (("",), ("_a", "_b"))]  # fmt: skip


def _kind(name: str, needs: str, may: str, make: Callable[[Made], Patch]) -> Kind:
    return Kind(name, frozenset(needs.split()), frozenset(may.split()), make)


KINDS: tuple[Kind, ...] = (
    _kind("LoRA", "down up", "middle up_bias alpha", _low_rank),
    _kind("AdaLoRA", "adaptive_down adaptive_up singular", "alpha", _adaptive),
    _kind("LoHa", "hada_w1_a hada_w1_b hada_w2_a hada_w2_b", "alpha", _hadamard),
    _kind("LoHa", "hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2", "alpha", _hadamard),
    *(Kind("LoKr", frozenset(needs), frozenset({"alpha", "lokr_t2"}), _kronecker) for needs in _LOKR),
    _kind("OFT", "oft_blocks", "alpha rescale", _rotation),
    _kind("OFT", "oft_R", "", _peft_rotation),
    _kind("BOFT", "boft_R", "boft_s", _peft_butterfly),
    _kind("IA3", "weight on_input", "alpha", _scaling),
    _kind("IA3", "ia3_l", "", _peft_scaling),
    _kind("GLoRA", "a1 a2 b1 b2", "alpha", _generalized),
    _kind("full", "diff", "diff_b", _full),
    _kind("full", "diff_b", "", _full),
    _kind("full", "w_norm", "b_norm", _full),
    _kind("full", "b_norm", "", _full),
    _kind("replacement", "set_weight", "", _replacement),
    _kind("replacement", "scale", "", _replacement),
)
"""All kinds. A `dora_scale` or `magnitude`, a `diff_b` and a `reshape_weight` may stand beside those of low rank."""
_BESIDE = frozenset({"dora_scale", "magnitude", "diff_b", "reshape_weight"})


def patch_of(entry: Entry, scales: Scales, component: str, matrix: str) -> tuple[str, Patch]:
    """The patch of one matrix, and the name of its kind.

    Args:
        entry: all tensors that the file has for the matrix.
        scales: of the file.
        component: the component's name for the config of PEFT.
        matrix: the name of the matrix without the prefix of the component.

    Raises:
        LoadError: a missing half of a pair, tensors of two kinds, shapes that do not go together, an unknown kind.
    """
    for part, key in entry.keys.items():
        if fault := _fault_of(part, entry.tensors[part]):
            raise LoadError(f"{key}: {fault}")
    own = {part for part in entry.tensors if part not in _BESIDE or part == "diff_b"} - {"reshape_weight"}
    if "timestep_rank" in own:
        raise LoadError(
            f"{entry.body}: is T-LoRA, whose rank depends on the timestep, and is not read. Use a plain LoRA."
        )
    main = own - {"diff_b"} or own
    kind = next((k for k in KINDS if k.needs <= main <= k.needs | k.may), None)
    if kind is None:
        raise LoadError(_misfit(entry, own))
    made = Made(entry.tensors, scales, component, matrix)
    try:
        patch = with_bias(kind.make(made), entry.tensors.get("diff_b"))
        _check_scale(entry.body, patch)
        _check_shape(patch, entry.tensors.get("reshape_weight"))
        if (magnitude := entry.tensors.get("magnitude", entry.tensors.get("dora_scale"))) is not None:
            patch = _with_magnitude(patch, magnitude, published="magnitude" not in entry.tensors)
            return f"DoRA of {kind.name}" if kind.name != "LoRA" else "DoRA", patch
        return kind.name, patch
    except (RuntimeError, IndexError, ValueError, ZeroDivisionError, TypeError) as error:  # TypeError: no dimensions
        shapes = ", ".join(f"{part} {tuple(t.shape)}" for part, t in entry.tensors.items())
        raise LoadError(f"{entry.body}: the shapes of its tensors do not go together ({shapes}).") from error


def _fault_of(part: str, tensor: object) -> str:
    """The fault of a tensor, of any matrix; "" for none. tensor: those of a GGUF file are packed."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        return "has no plain numbers (it is packed, sparse or a meta tensor). Save the adapter as plain floats."
    single = part in ("alpha", "on_input")
    if not tensor.is_floating_point() and (tensor.is_complex() or not (single or part == "reshape_weight")):
        return f"has {str(tensor.dtype).removeprefix('torch.')} numbers, and an adapter has floats."
    if single and tensor.numel() != 1:
        return f"needs one number. Got {tensor.numel()}."
    if tensor.numel() and not all(torch.isfinite(extreme) for extreme in torch.aminmax(tensor.float())):
        return "has NaN or infinite numbers. Fetch the file again, or use another checkpoint of the training."
    return ""


def _check_scale(body: str, patch: Patch) -> None:
    """LoadError for a scale that is not finite, or too large for float32."""
    scale = getattr(patch, "scale", 1.0)
    if not isfinite(scale) or abs(scale) > torch.finfo(torch.float32).max:
        raise LoadError(f"{body}: needs a finite scale, got {scale:g}. Its alpha is damaged: pass another file.")


def _check_shape(patch: Patch, stated: Tensor | None) -> None:
    """ValueError for a patch of another shape than the one to which ComfyUI's `reshape_weight` widens the matrix."""
    if stated is None:
        return
    shape = torch.Size(int(size) for size in stated.flatten())
    if len(shape) < 2 or min(shape) < 1 or patch.shape(shape)[: len(shape)] != shape:
        raise ValueError("reshape_weight is another shape than that of the patch")


def _with_magnitude(patch: Patch, magnitude: Tensor, *, published: bool) -> Patch:
    """DoRA. LyCORIS and OneTrainer give the axis by its place (`published`); PEFT has magnitudes of rows alone."""
    by_columns = published and magnitude.ndim > 1 and magnitude.shape[0] == 1 and magnitude.shape[1] != 1
    return Magnitude(inner=patch, magnitude=magnitude, by_columns=by_columns, bias=patch.bias)


def _misfit(entry: Entry, own: set[str]) -> str:
    """The reason why the tensors of a matrix are no patch, for an error."""
    near = max(KINDS, key=lambda kind: (len(kind.needs & own), -len(kind.needs - own)))
    lacking = sorted(near.needs - own)
    have = ", ".join(sorted(entry.keys.values()))
    if near.needs & own and lacking:
        return f"{entry.body}: {near.name} needs {' and '.join(lacking)} too. The file has only {have}."
    return f"{entry.body}: these tensors are of no known kind of adapter: {have}."
