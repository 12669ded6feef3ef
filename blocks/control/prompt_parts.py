"""Several prompts for one picture: each has its own pass, and their predictions become one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from ...components.prompt_parts import Area, PromptPart, PromptParts
from ...components.taps.tap import NO_TAPS
from ...components.types import Conditioning, Mask, Number, Pass, Predict, ZeroToOne
from ...graph import Above, Block
from ...graph.errors import ConfigError, UnfitValue
from ...registry import counted
from ..guiders.intervals import within

NotNegative = Annotated[Number, Ge(0)]


class Collected(NamedTuple):
    """The prompts so far."""

    prompt_parts: PromptParts


class AddPrompt(Block):
    """Add a prompt to those of the blocks before, for `ComposePrompts` and `AveragePrompts`.

    weight: of its prediction. area: the rectangle (left, top, width, height) in which it counts, in shares of the
    picture's sides; the denoiser then sees that part of the latents alone, and the weight rises over 8 latents at its
    inner edges. factor: 0; or the pixels a side of a latent, and the area is in pixels. start, stop: the interval in
    which it counts, as fractions of the whole steps.

    Raises:
        ConfigError: an area beyond 1 that is in shares.
    """

    weight: Number = 1.0
    area: tuple[NotNegative, NotNegative, NotNegative, NotNegative] | None = None
    factor: Annotated[int, Ge(0)] = 0
    start: ZeroToOne = 0.0
    stop: Annotated[ZeroToOne, Above("start")] = 1.0

    def __post_init__(self) -> None:
        if self.area is not None and not self.factor and max(self.area) > 1:
            raise ConfigError(f"AddPrompt.area needs shares from 0 to 1, got {self.area}. For pixels set factor=8.")

    def __call__(self, conditioning: Conditioning, prompt_parts: PromptParts = ()) -> Collected:
        area = None if self.area is None else Area(*self.area, self.factor)
        return Collected((*prompt_parts, PromptPart(conditioning, self.weight, area, None, self.start, self.stop)))


class AddMaskedPrompt(Block):
    """`AddPrompt` with a mask, which is white where the prompt counts; the denoiser sees all latents."""

    weight: Number = 1.0
    start: ZeroToOne = 0.0
    stop: Annotated[ZeroToOne, Above("start")] = 1.0

    def __call__(self, conditioning: Conditioning, prompt_mask: Mask, prompt_parts: PromptParts = ()) -> Collected:
        return Collected(
            (*prompt_parts, PromptPart(conditioning, self.weight, None, prompt_mask, self.start, self.stop))
        )


class Combined(NamedTuple):
    """The denoiser as a function, that reads several prompts in place of one."""

    predict: Predict


class ComposePrompts(Block):
    """Add up how far each of several prompts moves the prediction: n + sum of w_i (c_i - n), with the negative n.

    Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", equation 11; A1111's `AND`. The
    positive and perturbed passes of any guider become a pass for each prompt. Where a mask, area or interval leaves a
    prompt out, it adds nothing. Put it before the guider.

    Raises:
        UnfitValue: no prompts.
    """

    def __call__(self, predict: Predict, prompt_parts: PromptParts, negative: Conditioning) -> Combined:
        _check(prompt_parts)

        def composed(passes: Sequence[Pass]) -> Sequence[Tensor]:
            groups: list[list[Pass]] = []
            parts = [_active(prompt_parts, p) if p.role != "negative" else () for p in passes]
            bases = [_place_beside(passes, p) for p in passes]
            for p, own, base in zip(passes, parts, bases, strict=True):
                first = [_as_negative(p, negative)] if base is None else [p] if p.role == "negative" else []
                groups.append([*first, *(_of_part(p, part) for part in own)])
            answers = _answered(predict, groups)
            made: list[Tensor] = []
            for i, (p, own, base) in enumerate(zip(passes, parts, bases, strict=True)):
                start = answers[i if base is None else base][0]
                predictions = answers[i][len(answers[i]) - len(own) :]
                made.append(_moved(start, predictions, own, p) if own else start)
            return made

        return Combined(composed)


class AveragePrompts(Block):
    """Average the predictions for several prompts by their weights: sum of w_i c_i / sum of w_i for each latent.

    This is what lists of conditionings mean in ComfyUI. role: the passes of which prompt are meant; perturbed ones are
    of the positive prompt. Where no prompt counts, the prediction is 0. Put it before the guider.

    Raises:
        UnfitValue: no prompts.
    """

    role: Literal["positive", "negative"] = "positive"

    def __call__(self, predict: Predict, prompt_parts: PromptParts) -> Combined:
        _check(prompt_parts)

        def averaged(passes: Sequence[Pass]) -> Sequence[Tensor]:
            parts = [_active(prompt_parts, p) if self._reads(p) else () for p in passes]
            groups = [
                [_of_part(p, part) for part in own] if self._reads(p) else [p]
                for p, own in zip(passes, parts, strict=True)
            ]
            answers = _answered(predict, groups)
            return [
                _mean(predictions, own, p) if self._reads(p) else predictions[0]
                for predictions, own, p in zip(answers, parts, passes, strict=True)
            ]

        return Combined(averaged)

    def _reads(self, p: Pass) -> bool:
        return (p.role == "negative") == (self.role == "negative")


def _check(parts: PromptParts) -> None:
    if not parts:
        raise UnfitValue("Needs prompt_parts, got none. Put AddPrompt() before it, once for each prompt.")


def _active(parts: PromptParts, p: Pass) -> PromptParts:
    """The prompts that count in the step of a pass."""
    return tuple(part for part in parts if within(p.step, part.start, part.stop))


def _answered(predict: Predict, groups: Sequence[Sequence[Pass]]) -> list[list[Tensor]]:
    """The predictions for groups of passes, all from one call."""
    passes = [p for group in groups for p in group]
    answers = iter(predict(passes) if passes else ())
    return [[next(answers) for _ in group] for group in groups]


def _place_beside(passes: Sequence[Pass], p: Pass) -> int | None:
    """The index of the negative pass of the same latents and step; None if there is none."""
    for i, other in enumerate(passes):
        if other.role == "negative" and other.latents is p.latents and other.step is p.step and other.row == p.row:
            return i
    return None


def _as_negative(p: Pass, negative: Conditioning) -> Pass:
    taps = p.taps if p.role == "positive" else NO_TAPS  # a perturbation is of the positive prompt
    return replace(p, conditioning=_rows_of(negative, p), role="negative", taps=taps)


def _of_part(p: Pass, part: PromptPart) -> Pass:
    """The pass with this prompt, and with the latents of its area."""
    changed = replace(p, conditioning=_rows_of(part.conditioning, p))
    if part.area is None:
        return changed
    if p.residuals or p.references:
        raise UnfitValue(
            "A prompt with an area sees a part of the latents, which a control net or a reference image cannot. Give "
            "AddPrompt a mask in place of the area."
        )
    down, across = part.cells(p.latents)
    channels = tuple(t[..., down, across] for t in p.channels)
    return replace(changed, latents=p.latents[..., down, across], channels=channels)


def _rows_of(conditioning: Conditioning, p: Pass) -> Conditioning:
    """The rows of a conditioning for a pass."""
    count = len(p.latents)
    return conditioning if conditioning.rows in (1, count) else conditioning[p.row : p.row + count]


def _weights(part: PromptPart, p: Pass) -> Tensor:
    mask = None if part.mask is None else p.rows_of(part.mask)
    if mask is not None and len(mask) != len(p.latents):
        raise UnfitValue(
            f"The mask of a prompt has {counted(len(mask), 'row')} for {counted(len(p.latents), 'picture')}."
            " Give one for all, or one each."
        )
    return part.weights(p.latents, mask)


def _moved(start: Tensor, predictions: Sequence[Tensor], parts: PromptParts, p: Pass) -> Tensor:
    """start + sum of w_i (c_i - start)."""
    moved = start.clone()
    for part, prediction in zip(parts, predictions, strict=True):
        down, across = part.cells(p.latents)
        moved[..., down, across] += _weights(part, p) * (prediction - start[..., down, across])
    return moved


def _mean(predictions: Sequence[Tensor], parts: PromptParts, p: Pass) -> Tensor:
    """sum of w_i c_i / sum of w_i."""
    total, weight = torch.zeros_like(p.latents), torch.zeros_like(p.latents)
    for part, prediction in zip(parts, predictions, strict=True):
        down, across = part.cells(p.latents)
        own = _weights(part, p)
        total[..., down, across] += own * prediction
        weight[..., down, across] += own
    return torch.where(weight == 0, 0.0, total / torch.where(weight == 0, 1.0, weight))
