"""How passes share a forward of the denoiser: the one place that decides it, for every family."""

from collections.abc import Callable, Hashable, Sequence
from typing import Literal, TypeVar

from torch import Tensor, nn

from ...components.models.taps import Size, Taps, tapped
from ...components.types import Pass, Predict
from ...graph import Running

M = TypeVar("M", bound=nn.Module)

Batching = Literal["together", "apart"]
"""`"together"` runs passes of equal shapes and taps in one forward; `"apart"` each by itself: slower on most machines,
with a lower peak of memory."""


def asking(model: M, forward: Callable[[M, Sequence[Pass]], Tensor], batching: Batching, running: Running) -> Predict:
    """The denoiser as a function of passes.

    `forward(model, passes)` answers passes that go together: (rows of all passes, channels, height, width). Passes with
    taps go through a view of the model.
    """
    views: dict[tuple[Taps, Size], M] = {}  # as long as this function, and its alone

    def seen(taps: Taps, size: Size) -> M:
        if not taps:
            return model
        if (taps, size) not in views:
            views[taps, size] = tapped(model, taps, size)
        return views[taps, size]

    def predict(passes: Sequence[Pass]) -> Sequence[Tensor]:
        answers: dict[int, Tensor] = {}
        for group in groups(passes, batching):
            running.check()
            asked = [passes[i] for i in group]
            height, width = asked[0].latents.shape[2:]
            said = forward(seen(asked[0].taps, (height, width)), asked).float()
            answers.update(zip(group, said.split([len(p.latents) for p in asked]), strict=True))
        return [answers[i] for i in range(len(passes))]

    return predict


def groups(passes: Sequence[Pass], batching: Batching = "together") -> list[list[int]]:
    """Which passes go through a model together, by their places."""
    if batching == "apart":
        return [[i] for i in range(len(passes))]
    found: dict[Hashable, list[int]] = {}
    for i, p in enumerate(passes):
        joined = tuple(t.shape[1:] for t in p.channels), tuple(t.shape[1:] for t in p.references)
        places = frozenset(place for residuals in p.residuals for place in residuals)
        key = p.latents.shape[1:], p.conditioning.shape, joined, places, p.step.index, p.taps
        found.setdefault(key, []).append(i)
    return list(found.values())
