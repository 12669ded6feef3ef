"""The tensors of patches as parameters. The formulas are those of `adapters`: a trained layer has no other."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt, sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters.layers import difference_output, low_rank_output, weight_of
from ..adapters.patches import Hadamard, Kronecker, LowRank, Patch
from ..adapters.weight_patches import Magnitude
from ..models.views import Replacement, combined_class, shallow_copy

Initialization = Literal["kaiming", "gaussian"]


@dataclass(frozen=True)
class PatchSettings:
    """The settings of all patches of an adapter.

    rank: of each. scale: multiplies the difference. dropout: the share of numbers of a layer's input that a patch does
    not see in training. initialization: of `down` of LoRA. factor: of LoKr, the size of the small matrix; -1 for a
    square root.
    """

    rank: int
    scale: float
    dropout: float = 0.0
    initialization: Initialization = "kaiming"
    factor: int = -1


class PatchParameters(nn.Module, ABC):
    """The parameters of the patch of one matrix, and what it adds to the output of the layer that has the matrix.

    shape: of the matrix.
    """

    kind = ""
    """The name for reports, as `sf.load_adapter` reports it."""

    def __init__(self, shape: torch.Size, settings: PatchSettings) -> None:
        super().__init__()
        self.shape, self.scale, self.dropout = shape, settings.scale, settings.dropout

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
        return self.output(layer, self.dropped(x))

    def dropped(self, x: Tensor) -> Tensor:
        """The input after dropout: itself where nothing is dropped."""
        return F.dropout(x, self.dropout) if self.dropout and self.training else x

    def output(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The output of the difference for the input `x`, which has been dropped out."""
        like = torch.empty(self.shape, device="meta")  # the difference of an additive patch needs the shape alone
        return difference_output(layer, x, self.patch().difference(like))

    def fast(self) -> set[str]:
        """The names of the parameters that LoRA+ trains faster."""
        return set()


class LowRankParameters(PatchParameters):
    """LoRA and rsLoRA: `up(down(x)) * scale`."""

    kind = "LoRA"

    def __init__(self, shape: torch.Size, settings: PatchSettings, generator: torch.Generator) -> None:
        super().__init__(shape, settings)
        self.down = _uniform((settings.rank, *shape[1:]), generator)
        self.up = nn.Parameter(torch.zeros(shape[0], settings.rank))
        if settings.initialization == "gaussian":
            nn.init.normal_(self.down, std=1 / settings.rank, generator=generator)

    def patch(self) -> LowRank:
        """See `PatchParameters.patch`."""
        return LowRank(down=self.down, up=self.up, scale=self.scale)

    def output(self, layer: nn.Module, x: Tensor) -> Tensor:
        """`up(down(x)) * scale`."""
        return low_rank_output(layer, x, self.down, self.up) * self.scale

    def fast(self) -> set[str]:
        """`up`, as Hayou et al. 2024 (sec. 4) derive."""
        return {"up"}


class HadamardParameters(PatchParameters):
    """LoHa: the product of two products of thin matrices. The second is zero at first."""

    kind = "LoHa"

    def __init__(self, shape: torch.Size, settings: PatchSettings, generator: torch.Generator) -> None:
        super().__init__(shape, settings)
        columns = shape[1:].numel()
        self.a1, self.a2 = (_uniform((shape[0], settings.rank), generator) for _ in range(2))
        self.b1 = _uniform((settings.rank, columns), generator)
        self.b2 = nn.Parameter(torch.zeros(settings.rank, columns))

    def patch(self) -> Hadamard:
        """See `PatchParameters.patch`."""
        return Hadamard(first=(self.a1, self.b1), second=(self.a2, self.b2), scale=self.scale)


class KroneckerParameters(PatchParameters):
    """LoKr: the Kronecker product of a small matrix, zero at first, and a larger one, whole or of low rank."""

    kind = "LoKr"

    def __init__(self, shape: torch.Size, settings: PatchSettings, generator: torch.Generator) -> None:
        super().__init__(shape, settings)
        (a, out), (b, into) = (divided(size, settings.factor) for size in shape[:2])
        self.left = nn.Parameter(torch.zeros(a, b))
        if settings.rank < max(out, into) / 2:
            pair = (out, settings.rank), (settings.rank, into * shape[2:].numel())
            self.right = nn.ParameterList([_uniform(sizes, generator) for sizes in pair])
        else:
            self.right = nn.ParameterList([_uniform((out, into, *shape[2:]), generator)])

    def patch(self) -> Kronecker:
        """See `PatchParameters.patch`."""
        return Kronecker(left=(self.left,), right=tuple(self.right), scale=self.scale)


def divided(size: int, factor: int) -> tuple[int, int]:
    """A size as a product: the factor and the rest where it divides the size, else the next smaller divisor.

    Without a factor (-1), or where no such divisor is below the square root, both numbers are as equal as they can be.

    >>> divided(128, 4), divided(128, -1), divided(127, 8)
    ((4, 32), (8, 16), (1, 127))
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor < 1 else factor
    first = max(n for n in range(1, isqrt(size) + 1) if size % n == 0 and n <= most)
    return first, size // first


class MagnitudeParameters(PatchParameters):
    """DoRA: the norm of each row of the changed matrix is a parameter of its own, at first that of the base.

    The output follows from `m V / ||V||` without a dense matrix in the graph of gradients. With the gain
    `g = m / ||V||` it is `g W x + g (V - W) x`.
    """

    kind = "DoRA"

    def __init__(self, inner: PatchParameters, weight: Tensor, settings: PatchSettings) -> None:
        super().__init__(inner.shape, settings)
        self.inner = inner
        self.magnitude = nn.Parameter(weight.detach().float().flatten(1).norm(dim=1).cpu())

    def patch(self) -> Magnitude:
        """See `PatchParameters.patch`."""
        return Magnitude(inner=self.inner.patch(), magnitude=self.magnitude)

    def added(self, layer: nn.Module, x: Tensor, y: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
        """`(g - 1) W x + g (V - W) x`, of the input after dropout; see `PatchParameters.added`."""
        dropped = self.dropped(x)
        whole = y if dropped is x else base(dropped)
        bias: Tensor | None = getattr(layer, "bias", None)
        with torch.autocast(x.device.type, enabled=False):
            gain = self.patch().gain(weight_of(layer).to(self.magnitude.device)).flatten()
        sizes = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        gain = gain.reshape(sizes)
        if bias is not None:
            whole = whole - bias.to(whole.dtype).reshape(sizes)
        return (gain - 1) * whole + gain * self.inner.output(layer, dropped)

    def fast(self) -> set[str]:
        """Those of the inner patch."""
        return {f"inner.{name}" for name in self.inner.fast()}


def _uniform(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    made = nn.Parameter(torch.empty(sizes))
    nn.init.kaiming_uniform_(made, a=sqrt(5), generator=generator)
    return made


class TrainedLayer(nn.Module):
    """A layer with patches that are trained; the first of the classes that such a layer inherits from."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own output, plus those of the patches."""
        y: Tensor = super().forward(x)
        made = y
        for parameters in _patches_of(self):
            made = made + parameters.added(self.__dict__["plain_layer"], x, y, super().forward)
        return made.to(y.dtype)


def trained(parameters: PatchParameters) -> Replacement:
    """A change that adds the patch of parameters to a layer. They are no part of the model."""

    def change(module: nn.Module) -> nn.Module:
        if isinstance(module, TrainedLayer):  # by another part of the training
            twin = shallow_copy(module)
        else:
            twin = shallow_copy(module, combined_class(TrainedLayer, type(module)))
            twin.__dict__["plain_layer"] = module
        twin.__dict__["trained_patches"] = (*_patches_of(module), parameters)
        return twin

    return change


def _patches_of(layer: nn.Module) -> tuple[PatchParameters, ...]:
    return layer.__dict__.get("trained_patches", ())
