"""The constants of a run: what a denoiser or a control net makes of prompts, for the sets of prompts in use."""

from collections.abc import Hashable, Sequence

from ...components.conditioning import Conditioning
from ...components.models.constants import Constants
from ...components.types import Pass

_MOST = 4  # sets of prompts; one of SDXL with guidance has 51 MB of keys and values in float16


class RunConstants:
    """The constants of the newest sets of prompts of a run.

    A set is the conditionings of passes that share a forward, in their order. Guiders, prompts that change over the
    steps, and runs side by side alternate between several.
    """

    def __init__(self) -> None:
        self._sets: dict[Hashable, tuple[Sequence[Conditioning], Constants]] = {}  # conditionings are kept alive

    def of(self, passes: Sequence[Pass], strengths: Hashable = None) -> Constants:
        """The constants of passes that share a forward. strengths: of the adapters of their rows in this step."""
        shapes = passes[0].latents.shape[1:], tuple(t.shape[1:] for t in passes[0].references)
        key = tuple((id(p.conditioning), p.guidance) for p in passes), shapes, strengths
        found = self._sets.pop(key, None) or (tuple(p.conditioning for p in passes), Constants())
        while len(self._sets) >= _MOST:
            self._sets.pop(next(iter(self._sets)), None)
        self._sets[key] = found  # the newest last
        return found[1]
