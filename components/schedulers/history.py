"""The history of a solver: tensors of earlier steps."""

from torch import Tensor

History = tuple[Tensor, ...]
"""float32 tensors, () at the start. Multistep solvers take their warm-up order from its length."""


def newest(outputs: History, count: int) -> History:
    """The last `count` of a history that is kept oldest first."""
    return outputs[max(len(outputs) - count, 0) :]
