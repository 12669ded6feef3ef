"""The base of control nets: the steps in which control is on, and residuals for each pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Pass, Predict, Residuals, RowSlice, ZeroToOne
from ...graph import Above, Block, Running, knob
from ..denoise.passes import Prepared, groups

Control = Callable[[Sequence[Pass]], Residuals]
"""A function from passes of equal shapes to the residuals of a control net for their rows."""


class ControlBlock(Block, abstract=True):
    """A block that puts a control net before the guider: it reads `predict`, and gives one that adds residuals.

    control_guidance_start, control_guidance_end: the interval in which control is on, as fractions of the steps of this
    run. A step counts where it lies wholly inside. background: the colour under transparent parts of the picture;
    control pictures are black where there is nothing.
    """

    background: str = "black"
    control_guidance_start: ZeroToOne = knob(0.0)
    control_guidance_end: Annotated[ZeroToOne, Above("control_guidance_start")] = knob(1.0)

    def is_on(self, step: Step) -> bool:
        """Whether control is on in this step."""
        return is_inside(step, self.control_guidance_start, self.control_guidance_end)

    def controlled(
        self,
        predict: Predict,
        control: Control,
        running: Running,
        *,
        device: torch.device,
        spare_negative: bool = False,
        positive_for_all: bool = False,
    ) -> Predict:
        """`add_residuals` in the steps in which control is on."""
        how = {"spare_negative": spare_negative, "positive_for_all": positive_for_all}
        return add_residuals(predict, control, self.is_on, running, device=device, **how)


def is_inside(step: Step, start: float, end: float) -> bool:
    """Whether a step lies wholly between two fractions of the steps of this run.

    Whole steps are counted, of those that are left where strength cuts some off, as in the reference.
    """
    schedule = step.schedule
    first, stop = schedule.run
    before = schedule.places[first]
    count = schedule.places[stop - 1] + 1 - before
    number = schedule.places[step.index] - before
    return number / count >= start and (number + 1) / count <= end


def add_residuals(
    predict: Predict,
    control: Control,
    is_on: Callable[[Step], bool],
    running: Running,
    *,
    device: torch.device | None = None,
    spare_negative: bool = False,
    positive_for_all: bool = False,
) -> Predict:
    """`predict` with the residuals of `control` on each pass, in the steps in which `is_on` is true.

    Passes are moved to `device` for the control net; its residuals stay there, and the denoiser moves them to its own.
    Passes that differ in taps alone are controlled once. spare_negative: negative passes get no residuals.
    positive_for_all: the residuals of the positive pass go to all passes.
    """
    prepared = Prepared(device)

    def key_of(p: Pass) -> Key:
        return p.latents.shape, id(p.latents), 0 if positive_for_all else id(p.conditioning), p.step.index

    def controlled(passes: Sequence[Pass]) -> Sequence[Tensor]:
        chosen = [p for p in passes if is_on(p.step) and not (spare_negative and p.role == "negative")]
        if positive_for_all:
            chosen.sort(key=lambda p: p.role == "positive")  # of passes with one key, the last is used
        different = {key_of(p): Pass(p.latents, p.step, p.conditioning, p.role, row=p.row) for p in chosen}
        keys, bare = list(different), list(different.values())
        found: dict[Key, Residuals] = {}
        for group in groups(bare):
            running.check()
            together = [prepared.of(bare[i]) for i in group]
            each = _split(control(together), [len(p.latents) for p in together])
            found.update(zip((keys[i] for i in group), each, strict=True))
        return predict([_with(p, found) for p in passes])

    def _with(p: Pass, found: dict[Key, Residuals]) -> Pass:
        own = _zeros(p, found) if spare_negative and p.role == "negative" else found.get(key_of(p))
        return p if own is None else replace(p, residuals=(*p.residuals, own))

    return controlled


Key = tuple[torch.Size, int, int, int]
"""The key of the inputs that a control net reads: latents, prompt, step. Passes with one key are controlled once."""


def _zeros(p: Pass, found: Mapping[Key, Residuals]) -> Residuals | None:
    """Zeros as large as the residuals of passes of this size, so that all still share a forward of the denoiser."""
    alike = next((residuals for key, residuals in found.items() if key[0] == p.latents.shape), None)
    return alike and {place: tuple(map(torch.zeros_like, layers)) for place, layers in alike.items()}


def _split(residuals: Residuals, counts: list[int]) -> list[Residuals]:
    """Residuals for the rows of all passes as residuals for each."""
    return [RowSlice(residuals, sum(counts[:i]), count) for i, count in enumerate(counts)]
