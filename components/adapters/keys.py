"""The keys of adapter files: which matrix, and which tensor of its patch."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

_PARTS: Mapping[str, tuple[str, ...]] = {
    "down": ("lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_linear_layer.down.weight", "down.weight"),
    "up": ("lora_up.weight", "lora_B.weight", "lora.up.weight", "lora_linear_layer.up.weight", "up.weight"),
    "middle": ("lora_mid.weight",),
    "up_bias": ("lora_B.bias", "lora_up.bias"),
    "adaptive_down": ("lora_A",),
    "adaptive_up": ("lora_B",),
    "singular": ("lora_E",),
    "alpha": ("alpha",),
    "dora_scale": ("dora_scale",),
    "magnitude": ("lora_magnitude_vector.weight", "lora_magnitude_vector"),
    **{name: (name,) for name in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
        "oft_blocks", "rescale", "boft_R", "boft_s", "ia3_l", "on_input",
        "diff", "diff_b", "w_norm", "b_norm", "set_weight", "reshape_weight",
    )},
    **{name: (f"{name}.weight", name) for name in ("a1", "a2", "b1", "b2", "bm")},
    "oft_R": ("oft_R.weight", "oft_R"),
    "scale": ("scale",),
    "weight": ("weight",),
    "bias": ("bias",),
    "timestep_rank": ("q_layer.weight", "p_layer.weight", "lambda_layer"),
}  # fmt: skip
"""The tensors of patches, and the ends of keys that stand for them in published files."""
_BY_END = {end: part for part, ends in _PARTS.items() for end in ends}
_KEY = re.compile(r"(?P<body>.+?)[._](?P<end>" + "|".join(
    re.escape(end) for end in sorted(_BY_END, key=len, reverse=True)) + r")$")  # fmt: skip
_NAMED_ADAPTER = re.compile(
    r"\.(?P<part>lora_[ABE]|lora_magnitude_vector|oft_R|boft_R|boft_s|ia3_l)\.(?!weight$|bias$)[^.]+"
)
"""PEFT puts the name of an adapter behind its parameter: `lora_A.default.weight`."""


@dataclass
class Entry:
    """All tensors that a file has for one matrix.

    body: the name of the matrix as the file has it, with the prefix of its component. keys: for each tensor its key.
    """

    body: str
    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    keys: dict[str, str] = field(default_factory=dict[str, str])


def split_key(key: str) -> tuple[str, str] | None:
    """The name of the matrix and of the tensor of its patch; None for a key of no known kind.

    >>> split_key("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
    ('lora_unet_mid_block_attentions_0_proj_in', 'down')
    >>> split_key("unet.mid_block.attentions.0.proj_in.lora_A.default.weight")
    ('unet.mid_block.attentions.0.proj_in', 'down')
    """
    plain = _NAMED_ADAPTER.sub(r".\g<part>", key)
    found = _KEY.fullmatch(plain)
    if found is None or (plain[found.end("body")] == "_" and not found["end"].startswith(("lora.", "down", "up"))):
        return None
    return found["body"], _BY_END[found["end"]]


def entries_of(tensors: Iterable[tuple[str, Tensor]]) -> tuple[dict[str, Entry], list[str]]:
    """The tensors of a file by the matrices that they change, and the keys of no known kind."""
    entries: dict[str, Entry] = {}
    unknown: list[str] = []
    for key, tensor in tensors:
        if (found := split_key(key)) is None:
            unknown.append(key)
            continue
        body, part = found
        entry = entries.setdefault(body, Entry(body))
        entry.tensors[part] = tensor
        entry.keys[part] = key
    return entries, unknown
