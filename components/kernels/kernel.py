"""The kernel of the layers of one view, and the report of what it did."""

import threading
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...registry.log import LOG
from .backend import AttentionBackend, AttentionInputs
from .torch_kernels import PLAIN


@dataclass(eq=False)
class AttentionReport:
    """What a backend did for a component: calls that it computed, and calls that torch's choice computed, by reason."""

    ran: int = 0
    fell_back: Counter[str] = field(default_factory=Counter[str])

    def __str__(self) -> str:
        reasons = "".join(f"; {count} by sdpa: {reason}" for reason, count in self.fell_back.items())
        return f"{self.ran} calls{reasons}"


class Kernel:
    """The attention of the layers of a component: a backend, or torch's choice for inputs that the backend refuses.

    It is what `AttentionCore.kernel` holds. component: its name, for the log.
    """

    def __init__(self, backend: AttentionBackend, component: str) -> None:
        self.backend, self.component = backend, component
        self.report = AttentionReport()
        self._lock = threading.Lock()
        self._refusals: dict[AttentionInputs, str] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention, `b heads n e`; see `AttentionBackend.attend`."""
        return self._able(q, k, v, mask).attend(q, k, v, mask)

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute attention with the logarithms: by the backend if it has them, else by torch.

        See `AttentionBackend.with_logsumexp`.
        """
        able = self._able(q, k, v, mask)
        has_own = type(able).with_logsumexp is not AttentionBackend.with_logsumexp
        return (able if has_own else PLAIN).with_logsumexp(q, k, v, mask)

    def _able(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> AttentionBackend:
        if q.is_meta:  # a plan counts torch's function
            return PLAIN
        inputs = AttentionInputs.of(q, k, v, mask)
        if torch.compiler.is_compiling():
            return PLAIN if self.backend.refusal(inputs) else self.backend
        if (reason := self._refusals.get(inputs)) is None:
            reason = self._refusals[inputs] = self.backend.refusal(inputs)
        with self._lock:
            if not reason:
                self.report.ran += 1
                return self.backend
            if not self.report.fell_back[reason]:
                LOG.info("%s: attention by sdpa, since %s %s.", self.component, self.backend.name, reason)
            self.report.fell_back[reason] += 1
        return PLAIN

    def __deepcopy__(self, memo: object) -> "Kernel":
        return self
