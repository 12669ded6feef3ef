"""FlexAttention: torch compiles a kernel for attention with any change of the scores."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from .backend import AttentionBackend


@dataclass(frozen=True)
class Flex(AttentionBackend):
    """FlexAttention (Dong et al. 2024), which torch compiles at its first call, in 5 to 60 seconds.

    compiler: torch's name of the compiler.
    """

    name: ClassVar[str] = "flex"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "xpu")
    dtypes: ClassVar[tuple[str, ...]] = ("float16", "bfloat16", "float32")
    compiler: str = "inductor"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        if mask is None:
            return _function(self.compiler)(q, k, v)
        whole = mask.expand(*q.shape[:3], k.shape[2])

        def masked(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            if whole.dtype == torch.bool:
                return torch.where(whole[row, head, query, key], score, float("-inf"))
            return score + whole[row, head, query, key]

        return _function(self.compiler)(q, k, v, score_mod=masked)


def _function(compiler: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if torch.compiler.is_compiling() else _compiled(compiler)


@cache
def _compiled(compiler: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    limits = {} if "recompile_limit" not in signature(torch.compile).parameters else {
        "recompile_limit": _MOST_FORMS, "isolate_recompiles": True,
    }  # fmt: skip
    compile_function: Any = torch.compile  # its overloads know no name of a backend
    return compile_function(flex_attention, backend=compiler, **limits)


_MOST_FORMS = 64  # of one kernel: sizes of heads, dtypes, with a mask or without
