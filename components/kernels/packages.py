"""Kernels of other packages, each imported where it is used."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from torch import Tensor

from .backend import HALF, AttentionBackend, function_of, padded_mask


def _swapped(t: Tensor) -> Tensor:
    """`b heads n d` as `b n heads d`, or the other way."""
    return t.transpose(1, 2)


@dataclass(frozen=True)
class FlashAttn(AttentionBackend):
    """FlashAttention 2 (Dao 2023) of the package flash-attn."""

    name: ClassVar[str] = "flash_attn"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[str, ...]] = HALF
    largest_head: ClassVar[int | None] = 256
    masks: ClassVar[bool] = False
    capability: ClassVar[tuple[int, int] | None] = (8, 0)
    package: ClassVar[str] = "flash_attn"
    install: ClassVar[str] = "Install it: pip install flash-attn. Or write attention='flash', which is torch's own."

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        return _swapped(self._function(*map(_swapped, (q, k, v))))

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute attention with the logarithms."""
        out, logsumexp, _ = self._function(*map(_swapped, (q, k, v)), return_attn_probs=True)
        return _swapped(out), logsumexp

    @property
    def _function(self) -> Any:
        return function_of(import_module("flash_attn"), "flash_attn_func", self)


@dataclass(frozen=True)
class Flash3(AttentionBackend):
    """FlashAttention 3 (Shah et al. 2024), for GPUs of the Hopper generation."""

    name: ClassVar[str] = "flash3"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[str, ...]] = HALF
    largest_head: ClassVar[int | None] = 256
    masks: ClassVar[bool] = False
    capability: ClassVar[tuple[int, int] | None] = (9, 0)
    package: ClassVar[str] = "flash_attn_interface"
    install: ClassVar[str] = (
        "Build it from the folder hopper of github.com/Dao-AILab/flash-attention. Or write attention='cudnn'."
    )

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        made = function_of(import_module("flash_attn_interface"), "flash_attn_func", self)(*map(_swapped, (q, k, v)))
        return _swapped(made[0] if isinstance(made, tuple) else made)  # its first versions return the logarithms too


@dataclass(frozen=True)
class Xformers(AttentionBackend):
    """Memory-efficient attention of the package xformers."""

    name: ClassVar[str] = "xformers"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[str, ...]] = (*HALF, "float32")
    head_step: ClassVar[int] = 8
    package: ClassVar[str] = "xformers"
    install: ClassVar[str] = "Install it: pip install xformers. Or write attention='efficient', which is torch's own."

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        function = function_of(import_module("xformers.ops"), "memory_efficient_attention", self)
        bias = None if mask is None else padded_mask(mask, q, k)
        return _swapped(function(*map(_swapped, (q, k, v)), attn_bias=bias))


@dataclass(frozen=True)
class Sage(AttentionBackend):
    """SageAttention (Zhang et al. 2024): scores of 8-bit numbers. Its results differ by about one percent."""

    name: ClassVar[str] = "sage"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[str, ...]] = HALF
    largest_head: ClassVar[int | None] = 128
    masks: ClassVar[bool] = False
    backward: ClassVar[bool] = False
    capability: ClassVar[tuple[int, int] | None] = (8, 0)
    package: ClassVar[str] = "sageattention"
    install: ClassVar[str] = "Install it: pip install sageattention."

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        function = function_of(import_module("sageattention"), "sageattn", self)
        return function(q.contiguous(), k.contiguous(), v.contiguous(), tensor_layout="HND", is_causal=False)
