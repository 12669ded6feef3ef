"""Patches: the changes of one published matrix by an adapter. Each kind is a formula for the difference.

A patch at strength `s` makes of the matrix `W` the matrix `W + s * difference(W)`. `W` is always the published matrix,
never one that another adapter has changed, so the order of adapters does not matter. Matrices have the shape (out, in),
those of convolutions (out, in, height, width).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """A difference as the product of two thin matrices: `scale * up @ down`.

    down: (rank, in) or (rank, in, height, width). up: (out, rank).
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return len(self.down)


@dataclass(frozen=True, eq=False)
class Patch(ABC):
    """A change of one matrix. bias: the change of the bias, (out,)."""

    bias: Tensor | None = field(default=None, kw_only=True)

    @abstractmethod
    def shape(self, weight: torch.Size) -> torch.Size:
        """Return the shape of the matrix that the patch changes, as far as its tensors say; the rest is `weight`'s."""

    @abstractmethod
    def difference(self, weight: Tensor) -> Tensor:
        """Return the change of a matrix at strength 1, in float32 and in the shape of the matrix."""

    def factors(self, weight: torch.Size) -> Factors | None:
        """Return the difference as two thin matrices for a matrix of this shape; None if it is not of low rank."""
        return None

    @property
    def reads_weight(self) -> bool:
        """Whether the difference depends on the matrix."""
        return True

    @property
    def rank(self) -> int | None:
        """Its rank; None for kinds that have none."""
        return None

    def tensors(self) -> list[Tensor]:
        """Return all its tensors."""
        own = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return [*own, *(t for value in vars(self).values() if isinstance(value, Patch) for t in value.tensors())]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the same patch with each tensor replaced by what a function makes of it."""

        def changed(value: Any) -> Any:  # the value of a field
            match value:
                case Tensor():
                    return change(value)
                case Patch():
                    return value.mapped(change)
                case tuple():
                    return tuple(changed(part) for part in cast("tuple[Any, ...]", value))
                case _:
                    return value

        return replace(self, **{name: changed(value) for name, value in vars(self).items()})

    def to(self, device: torch.device) -> Self:
        """Return the same patch with its tensors on a device."""
        return self.mapped(lambda tensor: tensor.to(device))

    @property
    def is_empty(self) -> bool:
        """Whether it adds nothing at all: trainers write all layers, and leave some of them zero."""
        return False


def flat(tensor: Tensor) -> Tensor:
    """A tensor in float32 as a matrix, with all axes after the first in one."""
    return tensor.float().reshape(len(tensor), -1)


def with_bias(patch: Patch, bias: Tensor | None) -> Patch:
    """The patch with another difference of the bias."""
    return patch if bias is None else replace(patch, bias=bias)


# ------------------------------------------------------------------------------------- differences of their own
@dataclass(frozen=True, eq=False)
class Additive(Patch):
    """A difference that does not depend on the matrix. scale: a number that multiplies it."""

    scale: float = 1.0

    @property
    def reads_weight(self) -> bool:
        """False."""
        return False


@dataclass(frozen=True, eq=False, kw_only=True)
class LowRank(Additive):
    """LoRA (Hu et al. 2021, eq. 3) and LoCon: `scale * up @ down`.

    down: (rank, in[, height, width]). up: (out, rank[, 1, 1]). middle: the core of a convolution in Tucker's form,
    (rank, rank, height, width), with `down` (rank, in, 1, 1).
    """

    down: Tensor
    up: Tensor
    middle: Tensor | None = None

    @property
    def rank(self) -> int:
        """The number of columns of `up`."""
        return self.up.shape[1]

    def shape(self, weight: torch.Size) -> torch.Size:
        """(out, in[, height, width]) of both factors."""
        kernel = (self.down if self.middle is None else self.middle).shape[2:]
        return torch.Size((len(self.up), self.down.shape[1], *kernel))

    def factors(self, weight: torch.Size) -> Factors:
        """Both factors; the core is multiplied into `down`."""
        down = self.down
        if self.middle is not None:
            down = torch.einsum("mnhw,ni->mihw", self.middle.float(), flat(down))
        return Factors(down.reshape(len(down), *weight[1:]), self.up.reshape(self.up.shape[:2]), self.scale)

    def difference(self, weight: Tensor) -> Tensor:
        """`scale * up @ down`."""
        made = self.factors(weight.shape)
        return (flat(made.up) @ flat(made.down)).reshape(weight.shape) * self.scale

    def padded(self, rank: int) -> "LowRank":
        """The same difference as factors of this rank, which is no smaller; what is added is zero."""
        more = rank - self.rank
        middle = None if self.middle is None else F.pad(self.middle, (0, 0, 0, 0, 0, more, 0, more))
        down = torch.cat([self.down, self.down.new_zeros(more, *self.down.shape[1:])])
        up = torch.cat([self.up, self.up.new_zeros(len(self.up), more, *self.up.shape[2:])], 1)
        return replace(self, down=down, up=up, middle=middle)

    @property
    def is_empty(self) -> bool:
        """Whether `up` or `down` is zero and there is no bias."""
        return self.bias is None and not (self.up.any() and self.down.any())


@dataclass(frozen=True, eq=False, kw_only=True)
class Hadamard(Additive):
    """LoHa (Hyeon-Woo et al. 2022, prop. 2): the elementwise product of two low-rank matrices.

    first, second: pairs of factors (out, rank), (rank, in * height * width). With cores (rank, rank, height, width),
    the factors are (rank, out), (rank, in).
    """

    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]
    cores: tuple[Tensor, Tensor] | None = None

    def shape(self, weight: torch.Size) -> torch.Size:
        """(out, in[, height, width]); without cores the factors do not say how `in` and the kernel are split."""
        out, *rest = self.product_shape(0)
        return torch.Size((out, *(weight[1:] if self.cores is None and [weight[1:].numel()] == rest else rest)))

    def product_shape(self, which: int) -> tuple[int, ...]:
        """The shape of the first or second matrix, by its factors alone."""
        left, right = (self.first, self.second)[which]
        if self.cores is None:
            return len(left), right.shape[1]
        return left.shape[1], right.shape[1], *self.cores[which].shape[2:]

    def difference(self, weight: Tensor) -> Tensor:
        """`scale * (a1 @ b1) * (a2 @ b2)`."""
        made = [self._product(i).reshape(weight.shape) for i in (0, 1)]
        return made[0] * made[1] * self.scale

    def _product(self, which: int) -> Tensor:
        left, right = (t.float() for t in (self.first, self.second)[which])
        if self.cores is None:
            return left @ right
        return torch.einsum("ijhw,io,jn->onhw", self.cores[which].float(), left, right)

    def tensors(self) -> list[Tensor]:
        """Return all factors and cores."""
        return [*super().tensors(), *self.first, *self.second, *(self.cores or ())]

    @property
    def rank(self) -> int:
        """The rank of each of the two matrices."""
        return len(self.first[1])

    @property
    def is_empty(self) -> bool:
        """Whether a factor is zero."""
        return self.bias is None and not all(t.any() for t in (*self.first, *self.second))


@dataclass(frozen=True, eq=False, kw_only=True)
class Kronecker(Additive):
    """LoKr (Yeh et al. 2024, sec. 3.2): the Kronecker product of two matrices, each whole or of low rank.

    left: (a, b), or its factors. right: (out/a, in/b[, height, width]), or its factors (out/a, rank), (rank, …).
    core: of `right` in Tucker's form, (rank, rank, height, width); its factors are then (rank, out/a), (rank, in/b).
    """

    left: tuple[Tensor, ...]
    right: tuple[Tensor, ...]
    core: Tensor | None = None

    def shape(self, weight: torch.Size) -> torch.Size:
        """The product of both shapes; a flat `right` takes the kernel of the matrix.

        Only sizes are multiplied: the product of small factors can be larger than any memory.

        Raises:
            ValueError: factors that do not go together.
        """
        first, last = self.left[0], self.left[-1]
        if first.ndim != 2 or last.ndim != 2 or (len(self.left) > 1 and first.shape[1] != len(last)):
            raise ValueError("the factors of the left matrix do not go together")
        out, into, *kernel = self._right_shape(weight)
        return torch.Size((len(first) * out, last.shape[1] * into, *kernel))

    def _right_shape(self, weight: torch.Size) -> tuple[int, ...]:
        first, last = self.right[0], self.right[-1]
        if len(self.right) == 1 and first.ndim > 1 and self.core is None:
            return tuple(first.shape)
        if self.core is not None and len(self.right) > 1:
            if first.ndim == last.ndim == 2 and self.core.ndim == 4 and self.core.shape[:2] == (len(first), len(last)):
                return first.shape[1], last.shape[1], *self.core.shape[2:]
        elif len(self.right) > 1 and first.ndim == 2 and last.ndim > 1 and first.shape[1] == len(last):
            columns, kernel = last.shape[1:].numel(), weight[2:]
            if columns % max(1, kernel.numel()):
                kernel = torch.Size()
            return len(first), columns // max(1, kernel.numel()), *kernel
        raise ValueError("the factors of the right matrix do not go together")

    def difference(self, weight: Tensor) -> Tensor:
        """`scale * kron(left, right)`."""
        left, right = self._left(), self._right(weight.shape)
        left = left.reshape(*left.shape, *[1] * (right.ndim - 2))
        return torch.kron(left.contiguous(), right.contiguous()).reshape(weight.shape) * self.scale

    def _left(self) -> Tensor:
        return self.left[0].float() if len(self.left) == 1 else self.left[0].float() @ self.left[1].float()

    def _right(self, weight: torch.Size) -> Tensor:
        first = self.right[0].float()
        if len(self.right) == 1:
            return first
        second = self.right[1].float()
        if self.core is not None:
            return torch.einsum("ijhw,io,jn->onhw", self.core.float(), first, second)
        return (first @ flat(second)).reshape(self._right_shape(weight))

    def tensors(self) -> list[Tensor]:
        """Return all factors."""
        return [*super().tensors(), *self.left, *self.right]

    @property
    def rank(self) -> int | None:
        """The rank of `right`; None where both are whole."""
        pair = self.right if len(self.right) == 2 else self.left
        return pair[0].shape[1] if len(pair) == 2 and self.core is None else None

    @property
    def is_empty(self) -> bool:
        """Whether a factor is zero."""
        return self.bias is None and not all(t.any() for t in (*self.left, *self.right))


@dataclass(frozen=True, eq=False, kw_only=True)
class Full(Additive):
    """A whole difference: `.diff` of kohya and ComfyUI, `.w_norm` of LyCORIS. None where only the bias changes."""

    whole: Tensor | None

    def shape(self, weight: torch.Size) -> torch.Size:
        """The shape of the difference."""
        return weight if self.whole is None else self.whole.shape

    def difference(self, weight: Tensor) -> Tensor:
        """The difference itself."""
        if self.whole is None:
            return torch.zeros_like(weight, dtype=torch.float32)
        return self.whole.float().reshape(weight.shape) * self.scale

    @property
    def is_empty(self) -> bool:
        """Whether it is zero."""
        return not any(t.any() for t in (self.whole, self.bias) if t is not None)
