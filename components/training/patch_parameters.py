"""The tensors of patches as parameters. The formulas are those of `adapters`: a trained layer has no other."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import sqrt
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters.layers import difference_output, low_rank_output
from ..adapters.patches import LowRank, Patch
from ..models.views import Replacement, combined_class, shallow_copy

Initialization = Literal["kaiming", "gaussian"]


class PatchParameters(nn.Module, ABC):
    """The parameters of the patch of one matrix, and what it adds to the output of the layer that has the matrix.

    shape: of the matrix. dropout: the share of numbers of the input that are dropped in training.
    """

    kind = ""
    """The name for reports, as `sf.load_adapter` reports it."""

    def __init__(self, shape: torch.Size, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        self.dropout = dropout

    @abstractmethod
    def patch(self) -> Patch:
        """The patch of these parameters, with gradients."""

    def added(self, layer: nn.Module, x: Tensor, y: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
        """What the patch adds to the output of a layer.

        Args:
            layer: the layer without the patch.
            x: its input.
            y: its output for `x`.
            base: its forward.
        """
        return self.output(layer, F.dropout(x, self.dropout, self.training))

    def output(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The output of the difference for the input `x`, which has been dropped out."""
        like = torch.empty(self.shape, device="meta")  # the difference of an additive patch needs the shape alone
        return difference_output(layer, x, self.patch().difference(like))

    def late(self) -> set[str]:
        """The names of the parameters that are zero at first, which LoRA+ trains faster."""
        return set()


class LowRankParameters(PatchParameters):
    """LoRA and rsLoRA: `up(down(x)) * scale`."""

    kind = "LoRA"

    def __init__(
        self, shape: torch.Size, rank: int, scale: float, dropout: float, initialization: Initialization,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__(shape, dropout)
        self.scale = scale
        self.down = nn.Parameter(torch.empty(rank, *shape[1:]))
        self.up = nn.Parameter(torch.zeros(shape[0], rank))
        if initialization == "gaussian":
            nn.init.normal_(self.down, std=1 / rank, generator=generator)
        else:
            nn.init.kaiming_uniform_(self.down, a=sqrt(5), generator=generator)

    def patch(self) -> LowRank:
        """See `PatchParameters.patch`."""
        return LowRank(down=self.down, up=self.up, scale=self.scale)

    def output(self, layer: nn.Module, x: Tensor) -> Tensor:
        """`up(down(x)) * scale`."""
        return low_rank_output(layer, x, self.down, self.up) * self.scale

    def late(self) -> set[str]:
        """`up`."""
        return {"up"}


class TrainedLayer(nn.Module):
    """A layer with a patch that is trained; the first of the classes that such a layer inherits from."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own output, plus that of the patch."""
        y: Tensor = super().forward(x)
        plain, parameters = cast("tuple[nn.Module, PatchParameters]", self.__dict__["trained_patch"])
        return (y + parameters.added(plain, x, y, super().forward)).to(y.dtype)


def trained(parameters: PatchParameters) -> Replacement:
    """A change that adds the patch of parameters to a layer. They are no part of the model."""

    def change(module: nn.Module) -> nn.Module:
        twin = shallow_copy(module, combined_class(TrainedLayer, type(module)))
        twin.__dict__["trained_patch"] = module, parameters
        return twin

    return change
