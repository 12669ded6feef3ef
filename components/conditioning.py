"""Encoded prompts: one class for each family of denoisers."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..graph.cache import CACHE, cached
from ..graph.errors import UnfitValue
from ..registry import counted
from .schedulers.schedule import Step

C = TypeVar("C", bound="Conditioning")


@dataclass(frozen=True)
class StepPlan:
    """The plan of a row: the index of one of several choices in each whole step.

    The choice changes where the fraction of the steps that are done, or their number, reaches one of these points, and
    from step to step with a period.

    Args:
        fractions: points as fractions of the whole steps, in ascending order.
        numbers: points as numbers of whole steps, in ascending order.
        period: after so many whole steps the choices repeat.
        table: the index of the choice: for each interval between fractions, each interval between numbers, and each
            step of the period, the last running fastest.
    """

    fractions: tuple[float, ...] = ()
    numbers: tuple[int, ...] = ()
    period: int = 1
    table: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.period < 1 or len(self.table) != (len(self.fractions) + 1) * (len(self.numbers) + 1) * self.period:
            raise UnfitValue(
                f"A plan with {len(self.fractions)} fractions, {len(self.numbers)} numbers and a period of "
                f"{self.period} needs a table of (fractions + 1) * (numbers + 1) * period. Got {len(self.table)}."
            )

    def at(self, number: int, count: int) -> int:
        """The index of the choice in the whole step `number`, counted from 0, of `count`."""
        i = sum(int(point * count) <= number for point in self.fractions)
        j = sum(point <= number for point in self.numbers)
        return self.table[(i * (len(self.numbers) + 1) + j) * self.period + number % self.period]


@dataclass(frozen=True)
class OverSteps:
    """A conditioning that changes over the steps: one of several, for each row by its plan.

    choices: conditionings of equal shape. plans: one for each row, or one for all.
    """

    choices: "tuple[Conditioning, ...]"
    plans: tuple[StepPlan, ...]


@dataclass(frozen=True)
class Conditioning:
    """An encoded prompt, with one row for each image.

    Each family of denoisers reads its own subclass, which adds fields. A graph that passes the conditioning of one
    family to the denoiser of another is refused. A port of this class fits any family, the same one at all ports of
    its block. Fields that are tensors have the rows first. tokens: (rows, tokens, width). over_steps: of a prompt that
    changes from step to step; the tensors are then those of one of its texts, and a `Pass` takes those of its step.
    """

    __family__: ClassVar[bool] = True

    tokens: Float[Tensor, "rows tokens width"]
    over_steps: OverSteps | None = field(default=None, kw_only=True)

    def __getstate__(self) -> dict[str, Any]:  # values of fields
        return {name: value for name, value in vars(self).items() if name != CACHE}

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.tokens)

    @property
    def row_shape(self) -> Hashable:
        """The class, and the shape of one row of each tensor: conditionings with equal ones can be concatenated."""
        return type(self), tuple((name, t.shape[1:]) for name, t in self._tensors.items())

    def at(self, step: Step) -> Self:
        """The conditioning of a step: itself, if it does not change over the steps."""
        if self.over_steps is None:
            return self
        choices, whole = cast("tuple[Self, ...]", self.over_steps.choices), step.schedule.places
        chosen = [plan.at(whole[step.index], whole[-1] + 1) for plan in self.over_steps.plans]
        if len({*chosen}) == 1:
            return choices[chosen[0]]
        return cached(self, "chosen", lambda: self._chosen(chosen), tuple(chosen))

    def _chosen(self, chosen: Sequence[int]) -> Self:
        """The choice of each row, by its index."""
        assert self.over_steps is not None
        choices = cast("tuple[Self, ...]", self.over_steps.choices)
        return type(self).cat([choices[index][row : row + 1] for row, index in enumerate(chosen)])

    def map(self, change: "Callable[[Self], C]") -> C:
        """The changed conditioning, with its choices over the steps changed too.

        change: a function that makes a conditioning of one, with as many rows.

        Raises:
            UnfitValue: another number of rows, where rows change differently over the steps.
        """
        if self.over_steps is None:
            return change(self)
        choices = tuple(change(choice) for choice in cast("tuple[Self, ...]", self.over_steps.choices))
        plans = self.over_steps.plans
        if len(plans) not in (1, choices[0].rows):
            raise UnfitValue(
                f"A block makes {counted(choices[0].rows, 'row')} of {counted(self.rows, 'row')} of conditioning, and "
                "their prompts change at different steps. Pass prompts that do not change over the steps."
            )
        return replace(choices[0], over_steps=OverSteps(choices, plans))

    def __getitem__(self, rows: slice) -> Self:
        """Return some of the rows. The same rows are one object, so that what models make of them is kept."""
        key = rows.start, rows.stop, rows.step
        return cached(self, "rows", lambda: self._with_rows(lambda t: t[rows], lambda plans: plans[rows]), key)

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device."""
        return self._with_rows(lambda t: t.to(device), lambda plans: plans)

    def expand(self, prompts: int, each: int) -> Self:
        """Repeat each row `each` times, one after another; a single row is first repeated for all `prompts`."""
        return self._with_rows(
            lambda t: t.expand(prompts, *t.shape[1:]).repeat_interleave(each, 0),
            lambda plans: tuple(plan for plan in plans for _ in range(each)),
        )

    def _with_rows(
        self,
        change: Callable[[Tensor], Tensor],
        change_plans: Callable[[tuple[StepPlan, ...]], tuple[StepPlan, ...]],
    ) -> Self:
        """The same change of all tensors, and of the plans where each row has its own."""
        changed = replace(self, over_steps=None, **{name: change(t) for name, t in self._tensors.items()})
        if self.over_steps is None:
            return changed
        choices = tuple(choice._with_rows(change, change_plans) for choice in self.over_steps.choices)
        plans = self.over_steps.plans if len(self.over_steps.plans) == 1 else change_plans(self.over_steps.plans)
        return replace(changed, over_steps=OverSteps(choices, plans))

    @classmethod
    def cat(cls, parts: "Sequence[Conditioning]") -> Self:
        """Concatenate the rows of several.

        Raises:
            UnfitValue: conditioning of another family.
        """
        for part in parts:
            if not isinstance(part, cls):
                raise UnfitValue(
                    f"This denoiser needs {cls.__name__}, got {type(part).__name__}. "
                    "Encode the prompt with the blocks of its family."
                )
        mine = cast("Sequence[Self]", parts)
        rows = {name: torch.cat([p._tensors[name] for p in mine]) for name in mine[0]._tensors}
        if all(part.over_steps is None for part in mine):
            return replace(mine[0], **rows)
        changes = [part.over_steps or OverSteps((part,), (StepPlan(),)) for part in mine]
        count = max(len(one.choices) for one in changes)
        choices = tuple(cls.cat([one.choices[min(k, len(one.choices) - 1)] for one in changes]) for k in range(count))
        plans = tuple(
            plan
            for part, one in zip(mine, changes, strict=True)
            for plan in (one.plans * part.rows if len(one.plans) == 1 else one.plans)
        )
        return replace(mine[0], **rows, over_steps=OverSteps(choices, plans))

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class UNetConditioning(Conditioning):
    """The conditioning of a U-Net: tokens, and further inputs in some families."""

    def unet_inputs(self, dtype: torch.dtype) -> Mapping[str, Tensor] | None:
        """Return the further inputs under their published names, for `added_cond_kwargs`; None without any."""
        return None


@dataclass(frozen=True)
class SDConditioning(UNetConditioning):
    """The conditioning of Stable Diffusion 1.x and 2.x: tokens alone."""


@dataclass(frozen=True)
class SDXLText(Conditioning):
    """The encoded prompt of SDXL, without sizes. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class SDXLConditioning(SDXLText, UNetConditioning):
    """The conditioning of SDXL's U-Net (Podell et al. 2023, section 2.2). time_ids: (rows, 6 or 5), the size numbers.

    It is a subclass of `SDXLText`, so that the conditioning of one run can be passed to another, with other sizes.
    """

    time_ids: Float[Tensor, "rows ids"]

    def unet_inputs(self, dtype: torch.dtype) -> Mapping[str, Tensor]:
        """Return the pooled prompt in `dtype`, and the sizes in float32, since large ones overflow float16."""
        return {"text_embeds": self.pooled.to(dtype), "time_ids": self.time_ids}


@dataclass(frozen=True)
class FluxConditioning(Conditioning):
    """The conditioning of Flux: tokens of T5, and the pooled prompt of CLIP. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class SD3Conditioning(Conditioning):
    """The conditioning of SD 3: tokens of CLIP and T5, and the pooled prompt of CLIP. pooled: (rows, width)."""

    pooled: Float[Tensor, "rows width"]


@dataclass(frozen=True)
class PixArtConditioning(Conditioning):
    """The conditioning of PixArt: tokens of T5. mask: (rows, tokens), 0 on padding."""

    mask: Float[Tensor, "rows tokens"]


@dataclass(frozen=True)
class NoConditioning(Conditioning):
    """The conditioning of a model that reads no prompt: tokens are (rows, 0, 0)."""
