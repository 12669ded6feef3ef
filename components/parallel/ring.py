"""Attention in a ring of processes: keys and values go round, and partial results are merged exactly."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.attention import AttentionKernel
from .processes import Group


def ring_attention(
    q: Tensor, k: Tensor, v: Tensor, counts: Sequence[int], ring: Group, kernel: AttentionKernel
) -> Tensor:
    """Attend with own queries to the keys and values of all members (Liu et al. 2023, section 3).

    The next block is on its way while one is computed.

    Args:
        q: own queries, `b heads n d`.
        k: own keys, `b heads m d`.
        v: own values, `b heads m d`.
        counts: the number of keys of each member.
        ring: the members.
        kernel: computes attention to the keys of one member.
    """
    merged: tuple[Tensor, Tensor] | None = None
    for turn in range(ring.size):
        wait = None
        if turn + 1 < ring.size:
            coming = counts[(ring.place - turn - 1) % ring.size]
            wait = ring.pass_on([k, v], [torch.Size((*t.shape[:2], coming, t.shape[3])) for t in (k, v)])
        part = kernel.with_logsumexp(q, k, v, None)
        merged = (part[0].float(), part[1]) if merged is None else merge(*merged, *part)
        if wait is not None:
            k, v = wait()
    assert merged is not None
    return merged[0].to(q.dtype)


def merge(a: Tensor, log_a: Tensor, b: Tensor, log_b: Tensor) -> tuple[Tensor, Tensor]:
    """Merge attention to two sets of keys, and the logsumexp of their scores, in float32 (Dao 2023, section 2.3).

    >>> from sfumato.components.kernels.table import AUTOMATIC
    >>> q, k, v = torch.randn(3, 1, 2, 6, 4).unbind()
    >>> parts = [AUTOMATIC.with_logsumexp(q, k[:, :, at], v[:, :, at], None) for at in (slice(4), slice(4, 6))]
    >>> torch.allclose(merge(*parts[0], *parts[1])[0], AUTOMATIC(q, k, v, None), atol=1e-6)
    True
    """
    log = torch.logaddexp(log_a, log_b)
    return a * (log_a - log).exp()[..., None] + b * (log_b - log).exp()[..., None], log
