"""The tensor types of GGUF: numbers, and values and bytes of a block (ggml.h, ggml-common.h)."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Kind:
    """One tensor type: blocks of `values` numbers have `bytes` bytes. `dtype` is torch's, if it has the type."""

    number: int
    name: str
    values: int
    bytes: int
    dtype: torch.dtype | None = None

    def __str__(self) -> str:
        return self.name

    def size(self, count: int) -> int:
        """The bytes of `count` numbers, which must be whole blocks."""
        return count // self.values * self.bytes


_SUPER = 256  # values in a block of the k-quants

KINDS = {
    kind.number: kind
    for kind in (
        Kind(0, "F32", 1, 4, torch.float32),
        Kind(1, "F16", 1, 2, torch.float16),
        Kind(2, "Q4_0", 32, 2 + 16),
        Kind(3, "Q4_1", 32, 2 + 2 + 16),
        Kind(6, "Q5_0", 32, 2 + 4 + 16),
        Kind(7, "Q5_1", 32, 2 + 2 + 4 + 16),
        Kind(8, "Q8_0", 32, 2 + 32),
        Kind(10, "Q2_K", _SUPER, 16 + 64 + 2 + 2),
        Kind(11, "Q3_K", _SUPER, 32 + 64 + 12 + 2),
        Kind(12, "Q4_K", _SUPER, 2 + 2 + 12 + 128),
        Kind(13, "Q5_K", _SUPER, 2 + 2 + 12 + 32 + 128),
        Kind(14, "Q6_K", _SUPER, 128 + 64 + 16 + 2),
        Kind(20, "IQ4_NL", 32, 2 + 16),
        Kind(23, "IQ4_XS", _SUPER, 2 + 2 + 4 + 128),
        Kind(24, "I8", 1, 1, torch.int8),
        Kind(25, "I16", 1, 2, torch.int16),
        Kind(26, "I32", 1, 4, torch.int32),
        Kind(27, "I64", 1, 8, torch.int64),
        Kind(28, "F64", 1, 8, torch.float64),
        Kind(30, "BF16", 1, 2, torch.bfloat16),
    )
}
"""The types that we read, by number."""

UNREAD = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
}
"""Types of language models that image models do not use. We do not read them."""

BY_NAME = {kind.name: kind for kind in KINDS.values()}
"""The types that we read, by name."""
BY_DTYPE = {kind.dtype: kind for kind in KINDS.values() if kind.dtype is not None}
"""The types that torch has too, by its dtype."""
