"""The views of a denoiser that attend to the image prompts of passes."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from torch import nn

from ...components.models.image_attention import HeldTokens, ImageBranch, attach_images
from ...components.models.levels import Size
from ...components.taps.apply import TappedViews
from ...components.types import Pass

M = TypeVar("M", bound=nn.Module)
Key = tuple[tuple[ImageBranch, ...], Size]
_MOST_VIEWS = 16


class ImageViews(Generic[M]):
    """The views of a model with image prompts, as `TappedViews` of each. Each forward uses one alone.

    Views are kept for later forwards of the same branches and size, as many as ran at once.
    """

    def __init__(self, model: M) -> None:
        self._model = model
        self._plain = TappedViews(model)
        self._free: dict[Key, list[tuple[TappedViews[M], tuple[HeldTokens, ...]]]] = {}

    @contextmanager
    def view(self, passes: Sequence[Pass], size: Size) -> Generator[TappedViews[M]]:
        """Lend a view for one forward of passes with equal branches; without image prompts, the model itself.

        Taps are applied to it, since a tap may replace a block, whose attention then stays inside.
        """
        branches = tuple(one.branch for one in passes[0].images)
        if not branches:
            yield self._plain
            return
        free = self._free.setdefault((branches, size), [])
        try:
            views, held = free.pop()
        except IndexError:
            views, held = self._made(branches, size)
        rows, device = [len(p.latents) for p in passes], passes[0].latents.device
        for number, own in enumerate(held):
            own.set([p.images[number] for p in passes], rows, device)
        try:
            yield views
        finally:
            free.append((views, held))
            if len(self._free) > _MOST_VIEWS:
                self._free.pop(next(iter(self._free)), None)

    def _made(self, branches: Sequence[ImageBranch], size: Size) -> tuple[TappedViews[M], tuple[HeldTokens, ...]]:
        held = tuple(HeldTokens(size) for _ in branches)
        return TappedViews(attach_images(self._model, branches, held)), held
