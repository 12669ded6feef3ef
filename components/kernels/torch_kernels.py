"""The kernels of torch. They are called by themselves: torch's choice of one is a setting of the process."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import HALF, AttentionBackend, AttentionInputs, added_mask, padded_mask

_ATEN = torch.ops.aten


@dataclass(frozen=True)
class SDPA(AttentionBackend):
    """The kernel that torch chooses: `torch.nn.functional.scaled_dot_product_attention`."""

    name: ClassVar[str] = "sdpa"

    def unfit_device(self, device: torch.device) -> str:
        """ "", since torch has a kernel for every device."""
        return ""

    def refusal(self, inputs: AttentionInputs) -> str:
        """ "", since torch has a kernel for all inputs."""
        return ""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute attention with the logarithms, by the flash kernel where it can."""
        if FLASH.refusal(AttentionInputs.of(q, k, v, mask)):
            return super().with_logsumexp(q, k, v, mask)
        return FLASH.with_logsumexp(q, k, v, mask)


@dataclass(frozen=True)
class Math(AttentionBackend):
    """The formula by products and a softmax, which keeps all scores: the slowest, and the reference."""

    name: ClassVar[str] = "math"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        added = None if mask is None else added_mask(mask, q.dtype)
        return _ATEN._scaled_dot_product_attention_math(q, k, v, added)[0]


@dataclass(frozen=True)
class Flash(AttentionBackend):
    """FlashAttention 2 (Dao 2023) as torch has it, on CUDA; on a CPU torch's kernel of that kind. No package."""

    name: ClassVar[str] = "flash"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    capability: ClassVar[tuple[int, int] | None] = (8, 0)

    def refusal(self, inputs: AttentionInputs) -> str:
        """Why it cannot; on CUDA it takes half precision, heads of at most 256 channels, and no mask."""
        if reason := super().refusal(inputs):
            return reason
        if not inputs.equal_sizes:
            return "takes values of as many channels as queries"
        return _CUDA_FLASH.refusal(inputs) if inputs.device.type == "cuda" else ""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        return self._run(q, k, v, mask)[0]

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute attention with the logarithms."""
        out, logsumexp = self._run(q, k, v, mask)
        return out, logsumexp[..., : q.shape[2]].float()

    def _run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if q.device.type == "cpu":
            added = None if mask is None else added_mask(mask, q.dtype)[(None,) * (4 - mask.ndim)]
            return _ATEN._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=added)
        size, scale = q.shape[-1], q.shape[-1] ** -0.5
        q, k, v = (F.pad(t, (0, -size % 8)) if size % 8 else t for t in (q, k, v))
        out, logsumexp = _ATEN._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]
        return out[..., :size], logsumexp


@dataclass(frozen=True)
class _CudaFlash(Flash):
    dtypes: ClassVar[tuple[str, ...]] = HALF
    largest_head: ClassVar[int | None] = 256
    masks: ClassVar[bool] = False

    def refusal(self, inputs: AttentionInputs) -> str:
        return AttentionBackend.refusal(self, inputs)


@dataclass(frozen=True)
class Efficient(AttentionBackend):
    """Memory-efficient attention (Rabe & Staats 2021) as torch has it for CUDA, with masks and float32."""

    name: ClassVar[str] = "efficient"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[str, ...]] = (*HALF, "float32")
    head_step: ClassVar[int] = 8
    capability: ClassVar[tuple[int, int] | None] = (5, 0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        return self._run(q, k, v, mask, q.requires_grad or k.requires_grad or v.requires_grad)[0]

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute attention with the logarithms."""
        out, logsumexp = self._run(q, k, v, mask, True)
        return out, logsumexp[..., : q.shape[2]]

    def _run(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, with_logsumexp: bool) -> tuple[Tensor, Tensor]:
        bias = None if mask is None else padded_mask(mask, q, k)
        return _ATEN._scaled_dot_product_efficient_attention(q, k, v, bias, with_logsumexp)[:2]


@dataclass(frozen=True)
class Cudnn(AttentionBackend):
    """The attention of cuDNN, which torch never chooses by itself. A new shape takes a moment at its first call."""

    name: ClassVar[str] = "cudnn"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[str, ...]] = HALF
    largest_head: ClassVar[int | None] = 128
    head_step: ClassVar[int] = 8
    masks: ClassVar[bool] = False
    capability: ClassVar[tuple[int, int] | None] = (8, 0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        gradients = q.requires_grad or k.requires_grad or v.requires_grad
        return _ATEN._scaled_dot_product_cudnn_attention(q, k, v, None, gradients)[0]

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute attention with the logarithms."""
        out, logsumexp = _ATEN._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        return out, logsumexp.reshape(q.shape[:3])


FLASH, _CUDA_FLASH, PLAIN = Flash(), _CudaFlash(), SDPA()
