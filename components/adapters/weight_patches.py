"""Patches whose difference depends on the matrix: DoRA, OFT and BOFT, IA3, GLoRA, and whole replacements."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .patches import Patch, flat


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
        return self._by_axis(self.magnitude.float(), whole) * changed / self._norm(changed) - whole

    def gain(self, weight: Tensor) -> Tensor:
        """Return `m / ||V||`, in the shape in which it multiplies `V`; gradients flow through `m` alone (sec. 4.3)."""
        with torch.no_grad():
            norm = self._norm(weight.float() + self.inner.difference(weight))
        return self._by_axis(self.magnitude.float(), weight) / norm

    @property
    def _axis(self) -> int:
        return 1 if self.by_columns else 0

    def _norm(self, changed: Tensor) -> Tensor:
        others = [i for i in range(changed.ndim) if i != self._axis]
        norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        return norm.clamp_min(torch.finfo(torch.float32).eps)

    def _by_axis(self, numbers: Tensor, weight: Tensor) -> Tensor:
        shape = [1] * weight.ndim
        shape[self._axis] = -1
        return numbers.reshape(shape)


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
        if len(self.b1) == weight[0] and self.b2.shape[1:].numel() == weight[1:].numel():
            return torch.Size((weight[0], len(self.a1), *weight[2:]))
        return torch.Size((len(self.b1), *self.b2.shape[1:]))

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
