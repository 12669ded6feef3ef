"""Patches: what an adapter adds to one published matrix. Each kind is a formula for the difference it makes.

A patch at strength `s` makes of the matrix `W` the matrix `W + s * difference(W)`. `W` is always the published matrix,
never one that another adapter has changed, so the order of adapters does not matter. Matrices have the shape (out, in),
those of convolutions (out, in, height, width).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
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
    """A change of one matrix. bias: what it adds to the bias, (out,)."""

    bias: Tensor | None = field(default=None, kw_only=True)

    @abstractmethod
    def shape(self, weight: torch.Size) -> torch.Size:
        """Return the shape of the matrix that the patch changes, as far as its tensors say; the rest is `weight`'s."""

    @abstractmethod
    def difference(self, weight: Tensor) -> Tensor:
        """Return what the patch adds to a matrix at strength 1, in float32 and in the shape of the matrix."""

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

    @property
    def is_empty(self) -> bool:
        """Whether it adds nothing at all: trainers write all layers, and leave some of them zero."""
        return False


def flat(tensor: Tensor) -> Tensor:
    """A tensor in float32 as a matrix, with all axes after the first in one."""
    return tensor.float().reshape(len(tensor), -1)


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
        (left, right), _ = self.first, self.second
        if self.cores is not None:
            return torch.Size((left.shape[1], right.shape[1], *self.cores[0].shape[2:]))
        return torch.Size((len(left), *(weight[1:] if weight[1:].numel() == right.shape[1] else right.shape[1:])))

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
        """The product of both shapes; a flat `right` takes the kernel of the matrix."""
        left, right = self._left(), self._right(weight)
        return torch.Size((left.shape[0] * right.shape[0], left.shape[1] * right.shape[1], *right.shape[2:]))

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
        made = first @ flat(second)
        kernel = weight[2:] if made.shape[1] % max(1, weight[2:].numel()) == 0 else torch.Size()
        return made.reshape(len(first), -1, *kernel)

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


# ------------------------------------------------------------------------------- differences that read the matrix
@dataclass(frozen=True, eq=False, kw_only=True)
class Magnitude(Patch):
    """DoRA (Liu et al. 2024, eq. 5): `m * V / ||V||` with `V = W + difference`.

    magnitude: one number a row, or with `by_columns` one a column. OneTrainer and old files of LyCORIS have columns.
    """

    inner: Patch
    magnitude: Tensor
    by_columns: bool = False

    @property
    def rank(self) -> int | None:
        """The rank of the inner difference."""
        return self.inner.rank

    def shape(self, weight: torch.Size) -> torch.Size:
        """The shape of the inner difference, and the length of the magnitude."""
        inner = self.inner.shape(weight)
        axis = 1 if self.by_columns else 0
        return torch.Size((*inner[:axis], self.magnitude.numel(), *inner[axis + 1 :]))

    def difference(self, weight: Tensor) -> Tensor:
        """`m * V / ||V|| - W`."""
        whole = weight.float()
        changed = whole + self.inner.difference(weight)
        axis = 1 if self.by_columns else 0
        others = [i for i in range(whole.ndim) if i != axis]
        norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True).clamp_min(torch.finfo(torch.float32).eps)
        shape = [1] * whole.ndim
        shape[axis] = -1
        return self.magnitude.float().reshape(shape) * changed / norm - whole


@dataclass(frozen=True, eq=False, kw_only=True)
class Rotation(Patch):
    """OFT (Qiu et al. 2023, eq. 7) and BOFT (Liu et al. 2024, eq. 5): an orthogonal matrix on the rows or columns.

    blocks: (stages, count, size, size), the generators of each stage's block-diagonal rotation; OFT has one stage.
    on_input: the columns are rotated, by PEFT's rule; otherwise the rows, by LyCORIS' rule. limit: the largest norm of
    the generators of a stage's file, `alpha * out`; 0 for none. rescale: one factor a row, (out,). terms: the length of
    the Neumann series that PEFT uses for the inverse; 0 for the inverse itself. halved: PEFT's BOFT takes half of
    `Q - Q^T`. interleaved: LyCORIS' BOFT takes the rows of a block from both halves in turn.
    """

    blocks: Tensor
    on_input: bool = False
    limit: float = 0.0
    rescale: Tensor | None = None
    terms: int = 0
    halved: bool = False
    interleaved: bool = False

    def shape(self, weight: torch.Size) -> torch.Size:
        """The length of the rotated side; one shared block serves any length that it divides."""
        _, count, size, _ = self.blocks.shape
        side = weight[1:].numel() if self.on_input else weight[0]
        fits = side == count * size or (count == 1 and side % size == 0)
        if fits:
            return weight
        return torch.Size((weight[0], count * size)) if self.on_input else torch.Size((count * size, *weight[1:]))

    def difference(self, weight: Tensor) -> Tensor:
        """`R W - W`, or `W R^T - W`."""
        whole = flat(weight)
        rows = whole.T if self.on_input else whole
        rotations = self._rotations(len(rows))
        for stage, rotation in enumerate(rotations):
            rows = _mixed(rows, rotation, stage, unit=1 if self.interleaved else len(rotation[0]) // 2)
        if self.on_input:
            rows = rows.T
        if self.rescale is not None:
            rows = rows * self.rescale.float().reshape(-1, 1)
        return (rows - whole).reshape(weight.shape)

    def _rotations(self, side: int) -> Tensor:
        """The rotations of each stage by Cayley's transform: (stages, count, size, size)."""
        blocks = self.blocks.float()
        skew = blocks - blocks.mT
        if self.halved:
            skew = skew / 2
        if self.limit > 0:
            norm = skew.norm() + 1e-8
            skew = skew * torch.clamp(self.limit / norm, max=1.0)
        eye = torch.eye(skew.shape[-1], device=skew.device).expand_as(skew)
        if not self.on_input:
            made = torch.linalg.solve(eye - skew, eye + skew, left=False)
            made = made if self.interleaved else made.mT  # LyCORIS multiplies by R^T in OFT, and by R in BOFT
        elif self.terms:
            made = _cayley_series(skew, self.terms)
        else:
            made = torch.linalg.solve(eye + skew, eye - skew, left=False)
        count = side // skew.shape[-1]
        return made if made.shape[1] == count else made.expand(-1, count, -1, -1)


def _cayley_series(skew: Tensor, terms: int) -> Tensor:
    """`(I + Q)(I - Q)^-1` as the series that PEFT uses: `I + 2Q + 2Q^2 + … + Q^n`, with `n` 3 for 3 and 4 terms."""
    made = torch.eye(skew.shape[-1], device=skew.device).expand_as(skew).clone()
    last = max(3, terms - 1) if terms > 2 else terms - 1
    power = skew
    for exponent in range(1, last + 1):
        made = made + power * (1.0 if exponent == last and terms > 2 else 2.0)
        power = power @ skew
    return made


def _mixed(rows: Tensor, rotation: Tensor, stage: int, unit: int) -> Tensor:
    """Rows mixed within blocks. The halves of a block are `2^stage` half blocks apart (Liu et al. 2024, fig. 2).

    A block takes `unit` rows from one half, then as many from the other, and so on.
    """
    count, size, _ = rotation.shape
    if stage == 0 and unit != 1:  # neighbours in their own order; an odd size has no halves
        return torch.einsum("kij,kjc->kic", rotation, rows.reshape(count, size, -1)).reshape(rows.shape)
    apart = 2**stage * size // 2 // unit
    blocks = rows.reshape(-1, 2, apart, unit, rows.shape[1]).transpose(1, 2).reshape(count, size, -1)
    mixed = torch.einsum("kij,kjc->kic", rotation, blocks)
    return mixed.reshape(-1, apart, 2, unit, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scaling(Patch):
    """IA3 (Liu et al. 2022, eq. 1): rows or columns are multiplied by `1 + factor`.

    factor: the difference from 1; (out,), or (in,) with `on_input`. The bias is multiplied too where `with_bias`.
    """

    factor: Tensor
    on_input: bool = False
    with_bias: bool = False

    def shape(self, weight: torch.Size) -> torch.Size:
        """The length of the scaled side."""
        side = self.factor.numel()
        return torch.Size((weight[0], side, *weight[2:]) if self.on_input else (side, *weight[1:]))

    def difference(self, weight: Tensor) -> Tensor:
        """`W * factor`."""
        shape = [1] * weight.ndim
        shape[1 if self.on_input else 0] = -1
        return weight.float() * self.factor.float().reshape(shape)

    @property
    def is_empty(self) -> bool:
        """Whether it multiplies by 1."""
        return not self.factor.any()


@dataclass(frozen=True, eq=False, kw_only=True)
class Generalized(Patch):
    """GLoRA (Chavan et al. 2023, eq. 5 without its bias terms): `scale * (W a1 a2 + b1 b2)`.

    a1: (in, rank). a2: (rank, in). b1: (out, rank). b2: (rank, in[, height, width]).
    """

    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """The rank of each product."""
        return len(self.b2)

    def shape(self, weight: torch.Size) -> torch.Size:
        """(out, in[, height, width])."""
        return torch.Size((len(self.b1), *self.b2.shape[1:])) if self.b2.ndim == len(weight) else weight

    def difference(self, weight: Tensor) -> Tensor:
        """`scale * (W a1 a2 + b1 b2)`."""
        from_weight = torch.einsum("oi...,ij->oj...", weight.float(), flat(self.a1) @ flat(self.a2))
        return ((flat(self.b1) @ flat(self.b2)).reshape(weight.shape) + from_weight) * self.scale


@dataclass(frozen=True, eq=False, kw_only=True)
class Replacement(Patch):
    """Another matrix in place of the published one: `.set_weight` of ComfyUI, and the norms of BFL's control LoRA."""

    weight: Tensor

    def shape(self, weight: torch.Size) -> torch.Size:
        """The shape of the new matrix."""
        return self.weight.shape

    def difference(self, weight: Tensor) -> Tensor:
        """The new matrix less the old one."""
        return self.weight.float().reshape(weight.shape) - weight.float()


def with_bias(patch: Patch, bias: Tensor | None) -> Patch:
    """The patch with another difference of the bias."""
    return patch if bias is None else replace(patch, bias=bias)
