"""The backend where nobody sets one, by a table."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import HALF, AttentionBackend, AttentionInputs
from .packages import Flash3
from .sliced import Sliced
from .torch_kernels import PLAIN


class Row(NamedTuple):
    """A row of the table: inputs, and their backend. `()`, None: any.

    devices: types of devices. dtypes: of queries. largest_head: the most channels of a head. mask: whether there is
    one.
    """

    backend: AttentionBackend
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    largest_head: int | None = None
    mask: bool | None = None

    def fits(self, inputs: AttentionInputs) -> bool:
        """Whether the row is for these inputs."""
        return (
            (not self.devices or inputs.device.type in self.devices)
            and (not self.dtypes or inputs.dtype in self.dtypes)
            and (self.largest_head is None or inputs.head_size <= self.largest_head)
            and (self.mask is None or inputs.mask == self.mask)
        )


TABLE: tuple[Row, ...] = (
    Row(Flash3(), ("cuda",), HALF, 256, mask=False),
    Row(Sliced(megabytes=1024), ("mps",)),
    Row(PLAIN),
)
"""The first row that fits, and whose backend can run, is used."""


class Automatic:
    """The kernel of layers without a backend of their own: that of the table. On a CPU it is torch's choice."""

    def __init__(self, table: Sequence[Row] = TABLE) -> None:
        self.table = table
        self._chosen: dict[AttentionInputs, AttentionBackend] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention, `b heads n e`; see `AttentionBackend.attend`."""
        if q.device.type in _PLAIN or torch.compiler.is_compiling():  # a compiler puts in torch's kernels alone
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.chosen(AttentionInputs.of(q, k, v, mask)).attend(q, k, v, mask)

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute attention with the logarithms; see `AttentionBackend.with_logsumexp`."""
        return PLAIN.with_logsumexp(q, k, v, mask)

    def chosen(self, inputs: AttentionInputs) -> AttentionBackend:
        """The backend of the table for these inputs."""
        if (known := self._chosen.get(inputs)) is None:
            fitting = (row.backend for row in self.table if row.fits(inputs))
            known = next((one for one in fitting if not one.missing() and not one.refusal(inputs)), PLAIN)
            self._chosen[inputs] = known
        return known

    def __deepcopy__(self, memo: object) -> "Automatic":
        return self


_PLAIN = ("cpu", "meta")  # decided at once, since this runs at every layer
AUTOMATIC = Automatic()
