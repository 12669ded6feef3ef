"""What a denoiser block knows of the processes that compute its model."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..types import Pass
from .passes import Compute, DividedPasses, SharesRows
from .processes import Processes

SHARED = "several_processes"
"""The attribute of a model that several processes compute."""


@dataclass(eq=False)
class SharedDenoiser:
    """The `DividesPasses` of a denoiser block. passes: divides them; None where each process computes all."""

    processes: Processes
    passes: DividedPasses | None

    def predict(
        self, requests: Sequence[Sequence[Pass]], compute: Compute, by_rows: SharesRows, first: bool
    ) -> Sequence[Sequence[Tensor]]:
        """The predictions for the passes of several requests. first: whether a run asks for the first time."""
        with self.processes.computing():
            if first:
                self.processes.check_equal([p for passes in requests for p in passes])
            if self.passes is None or not any(requests):
                return compute(requests)
            return self.passes.predict(requests, compute, by_rows)

    def __deepcopy__(self, memo: object) -> "SharedDenoiser":
        return self
