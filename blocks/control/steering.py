"""What all control nets have in common: when they are on, which passes they steer, and pictures at their size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SDConditioning, SDXLConditioning
from ...components.schedulers.schedule import Step
from ...components.types import Pass, Predict, PredictFunction, Residuals, Rows, RowSlice
from ...graph import Running
from ...graph.space import ANY_SPACE
from ...graph.typing import Port
from ...registry import counted
from ..denoise.passes import OnDevice, groups
from ..image.read import AnyPicture, PictureInput, ReadImage, ReadMask, each_picture

PredictUNet = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=(SDConditioning, SDXLConditioning))]
"""A U-Net as a function."""


class Controlled(NamedTuple):
    predict: PredictUNet


def check_interval(start: float, end: float) -> None:
    """Refuse an interval that is empty before anything runs."""
    if start >= end:
        raise ValueError(
            f"control_guidance_start={start:g} is not before control_guidance_end={end:g}. "
            "To leave control out, set its scale to 0."
        )


def steers(step: Step, start: float, end: float) -> bool:
    """Whether control is on in this step: it lies wholly between `start` and `end`, parts of the steps of this run.

    Counted in whole steps, and in those that are left where strength cuts some off, as the reference does.
    """
    schedule = step.schedule
    before = schedule.whole_step_of[schedule.begin]
    whole = schedule.whole_step_of[schedule.end - 1] + 1 - before
    place = schedule.whole_step_of[step.index] - before
    return place / whole >= start and (place + 1) / whole <= end


def steered(
    predict: Predict,
    control: Callable[[Sequence[Pass]], Residuals],
    on: Callable[[Step], bool],
    running: Running,
    *,
    device: torch.device | None = None,
    spares_negative: bool = False,
    told_positive: bool = False,
) -> Predict:
    """`predict` with what `control` says added to each pass, in the steps in which it is on.

    `control(passes)` answers passes of equal shapes, with rows for all of them; they are brought to its `device`. What
    it says stays there, and the denoiser brings it to its own. Passes that differ in taps alone are one question. With
    `spares_negative` nothing is added to negative passes; with `told_positive` what is said of the positive pass is
    added to all.
    """

    here = None if device is None else OnDevice(device)

    def question(p: Pass) -> Question:
        return p.latents.shape, id(p.latents), 0 if told_positive else id(p.conditioning), p.step.index

    def asked(passes: Sequence[Pass]) -> Sequence[Tensor]:
        steerable = [p for p in passes if on(p.step) and not (spares_negative and _negative(p))]
        if told_positive:
            steerable.sort(key=lambda p: p.role == "positive")  # the last to ask is the one that is answered
        wanted = {question(p): _bare(p) for p in steerable}
        keys, different = list(wanted), list(wanted.values())
        said: dict[Question, Residuals] = {}
        for group in groups(different):
            running.check()
            together = [here.moved(different[i]) if here else different[i] for i in group]
            answers = _split(control(together), [len(p.latents) for p in together])
            said.update(zip((keys[i] for i in group), answers, strict=True))
        return predict([_with(p, said) for p in passes])

    def _with(p: Pass, said: dict[Question, Residuals]) -> Pass:
        own = _zeros(p, said) if spares_negative and _negative(p) else said.get(question(p))
        return p if own is None else replace(p, residuals=(*p.residuals, own))

    return asked


Question = tuple[torch.Size, int, int, int]
"""What tells one question to a control net from another: latents, prompt, step. All else is the denoiser's affair."""


def _bare(p: Pass) -> Pass:
    return Pass(p.latents, p.step, p.conditioning, p.role)


def _negative(p: Pass) -> bool:
    return p.role == "negative"


def _zeros(p: Pass, said: Mapping[Question, Residuals]) -> Residuals | None:
    """Zeros of the size that other passes of this size have, so that all still share a forward of the denoiser."""
    alike = next((r for question, r in said.items() if question[0] == p.latents.shape), None)
    return alike and {place: tuple(map(torch.zeros_like, layers)) for place, layers in alike.items()}


def _split(residuals: Residuals, counts: list[int]) -> list[Residuals]:
    """What is for each pass, of what is for the rows of all."""
    return [RowSlice(residuals, sum(counts[:i]), count) for i, count in enumerate(counts)]


def shown(
    image: PictureInput,
    rows: Rows,
    size: Callable[[int, int], tuple[int, int]],
    channels: int,
    features: Callable[[Tensor], tuple[Tensor, ...]],
    name: str = "control_image",
) -> Callable[[Sequence[Pass]], tuple[Tensor, ...]]:
    """What `features` says of the pictures `b channels r c`, for the rows of passes, on their device. Each is read, and
    brought there, once for a run.

    `size` gives rows and columns of pixels for latents of a height and width.

    Raises:
        ValueError: neither one picture, nor one for each prompt or each picture to make.
    """
    pictures = each_picture(image)
    if len(pictures) not in (1, rows.prompts, rows.total):
        told = f"{name} has {counted(len(pictures), 'picture')} for {counted(rows.prompts, 'prompt')}"
        raise ValueError(f"{told}. Give one for all, or one each.")
    read: dict[tuple[int, int, torch.device], tuple[Tensor, ...]] = {}  # as long as this function

    def of(passes: Sequence[Pass]) -> tuple[Tensor, ...]:
        (height, width), device = passes[0].latents.shape[2:], passes[0].latents.device
        if (height, width, device) not in read:
            pixels = torch.cat([_pixels(p, size(height, width), channels) for p in pictures])
            said = features(pixels)
            each = 1 if len(pixels) in (1, rows.total) else rows.each
            read[height, width, device] = tuple(t.to(device).repeat_interleave(each, 0) for t in said)
        there = read[height, width, device]
        return tuple(torch.cat([t.expand(len(p.latents), -1, -1, -1) for p in passes]) for t in there)

    return of


def _pixels(picture: AnyPicture, size: tuple[int, int], channels: int) -> Tensor:
    """One picture, `1 channels r c` from 0 to 1; grey for one channel.

    A tensor may go down to -1, which is how nets trained to inpaint are shown what to paint.
    """
    if isinstance(picture, Tensor) and picture.is_floating_point() and bool((picture < 0).any()):
        return _pixels((picture + 1) / 2, size, channels) * 2 - 1
    rows, columns = size
    if channels == 1:
        return ReadMask(multiple=1, binarize=False, height=rows, width=columns)(picture).mask
    return ReadImage(multiple=1, height=rows, width=columns)(picture).pixels
