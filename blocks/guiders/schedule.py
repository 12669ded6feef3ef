"""A guider made of guiders, each for an interval of the steps."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple, Self, cast

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, Prediction, ZeroToOne
from ...graph import Block, ConfigError, Memory, Running
from ...graph.ports import ALONE
from .cfg import ClassifierFreeGuidance
from .files import PublishedGuider, from_config
from .intervals import places
from .layers import require_layers, required_taps
from .none import NoGuidance, WithoutNegative

Kept = tuple[tuple[int, str, Any], ...]  # Any: the memory of any guider
"""The memory of the parts: the number of the part, the name of the memory, its value."""

_INPUTS = "predict", "latents", "step", "positive", "negative"


class Scheduled(NamedTuple):
    """The prediction of the guider of this step, and the memory of all."""

    prediction: Prediction
    kept: Memory[Kept]


class GuidanceSchedule(PublishedGuider):
    """Change the guider during the run.

        GuidanceSchedule(parts=((0.0, PerturbedAttentionGuidance()), (0.5, NoGuidance())))

    parts: pairs of a beginning, a fraction of the whole steps, and a guider, which serves up to the next beginning.
    The first begins at 0. Each guider has its own scales and intervals, counted over the whole run, and keeps its
    memory through the steps of other guiders.

    Raises:
        ConfigError: beginnings that do not rise from 0, or a block that is no guider or needs other inputs.
    """

    parts: tuple[tuple[ZeroToOne, Block], ...] = ((0.0, ClassifierFreeGuidance()),)

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.parts]
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ConfigError(
                f"The parts must begin at 0.0 and rise, below 1, but they begin at {starts or 'nothing'}."
            )
        for start, guider in self.parts:
            s = guider.signature
            more = [name for name, port in s.inputs.items() if port.required and name not in _INPUTS]
            more += [name for name, part in s.components.items() if part.required]
            if more or "prediction" not in s.outputs:
                why = f"needs {', '.join(more)}" if more else "has no output prediction"
                raise ConfigError(
                    f"The part at {start}, {type(guider).__name__}, {why}. The guiders of a schedule read only "
                    f"{', '.join(_INPUTS)}, and have the output prediction."
                )
        require_layers(self, [tap for _, guider in self.parts for tap in required_taps(guider)])

    def __call__(
        self,
        predict: Predict,
        latents: Latents,
        step: Step,
        positive: Conditioning,
        negative: Conditioning,
        kept: Memory[Kept] = (),
        running: Running = ALONE,
    ) -> Scheduled:
        number, count = places(step)
        part = max(k for k, (start, _) in enumerate(self.parts) if int(start * count) <= number)
        guider = self.parts[part][1]
        values: dict[str, Any] = dict(zip(_INPUTS, (predict, latents, step, positive, negative), strict=True))
        s = guider.signature
        args = {name: value for name, value in values.items() if name in s.inputs}
        args |= {name: value for k, name, value in kept if k == part}
        if s.running:
            args[s.running] = running
        out = guider(**args)
        mine = tuple((part, name, getattr(out, name)) for name in s.memory)
        return Scheduled(out.prediction, (*(one for one in kept if one[0] != part), *mine))

    def simplified(self) -> Block | None:
        """`NoGuidance` where all parts are; `WithoutNegative` where no part reads the negative prompt."""
        parts = [guider.simplified() or guider for _, guider in self.parts]
        if all(isinstance(guider, NoGuidance) for guider in parts):
            return NoGuidance()
        reads = any("negative" in guider.signature.inputs or guider.signature.memory for guider in parts)
        return None if reads else WithoutNegative(guider=self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make one from a config dict, in which each guider is a config dict with `_class_name`."""
        if "parts" not in config:
            return super().from_config(config)
        parts = [
            [start, from_config(cast("Mapping[str, Any]", guider)) if isinstance(guider, Mapping) else guider]
            for start, guider in config["parts"]
        ]
        return super().from_config({**config, "parts": parts})
