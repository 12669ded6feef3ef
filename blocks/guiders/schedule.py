"""A guider made of others: each has its part of the steps."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple, Self, cast

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, Prediction, ZeroToOne
from ...graph import Block, ConfigError, Memory, Running
from ...graph.ports import ALONE
from .cfg import ClassifierFreeGuidance
from .files import Published, from_config
from .layers import ask, asked_by
from .none import NoGuidance, WithoutNegative
from .terms import place_of

Kept = tuple[tuple[int, str, Any], ...]  # Any: whatever a guider remembers
"""What each part remembers: its place, the name of the memory, the value."""

_TAKES = "predict", "latents", "step", "positive", "negative"


class Scheduled(NamedTuple):
    prediction: Prediction
    kept: Memory[Kept]


class GuidanceSchedule(Published, Block):
    """Change the guider on the way: from each part's beginning, as a part of the whole steps, up to the next one's.

        GuidanceSchedule(parts=((0.0, PerturbedAttentionGuidance()), (0.5, NoGuidance())))

    Scales and intervals are each guider's own, counted over the whole run. A guider remembers through the steps in
    which it is not asked.
    """

    parts: tuple[tuple[ZeroToOne, Block], ...] = ((0.0, ClassifierFreeGuidance()),)

    def __post_init__(self) -> None:
        self.__dict__["parts"] = tuple((float(start), guider) for start, guider in self.parts)
        starts = [start for start, _ in self.parts]
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise ConfigError(
                f"The parts begin at {starts or 'nothing'}, but must at 0.0, then later and later below 1."
            )
        for start, guider in self.parts:
            if not isinstance(guider, Block):  # pyright: ignore[reportUnnecessaryIsInstance]  users pass anything
                raise ConfigError(
                    f"The part at {start} is {guider!r}, not a guider. Write (0.5, sf.guiders.NoGuidance())."
                )
            s = guider.signature
            lost = [name for name, port in s.inputs.items() if port.required and name not in _TAKES]
            lost += [name for name, part in s.components.items() if part.required]
            if lost or "prediction" not in s.outputs:
                why = f"needs {', '.join(lost)}" if lost else "gives no prediction"
                raise ConfigError(
                    f"The part at {start}, {type(guider).__name__}, {why}. A schedule's guiders take only "
                    f"{', '.join(_TAKES)}, and give prediction."
                )

        ask(self, [tap for _, guider in self.parts for tap in asked_by(guider)])

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
        place, whole = place_of(step)
        part = max(k for k, (start, _) in enumerate(self.parts) if int(start * whole) <= place)
        guider = self.parts[part][1]
        values: dict[str, Any] = dict(zip(_TAKES, (predict, latents, step, positive, negative), strict=True))
        s = guider.signature
        args = {name: value for name, value in values.items() if name in s.inputs}
        args |= {name: value for k, name, value in kept if k == part}
        if s.running:
            args[s.running] = running
        out = guider(**args)
        mine = tuple((part, name, getattr(out, name)) for name in s.memory)
        return Scheduled(out.prediction, (*(one for one in kept if one[0] != part), *mine))

    def simplified(self) -> Block | None:
        parts = [guider.simplified() or guider for _, guider in self.parts]
        if all(isinstance(guider, NoGuidance) for guider in parts):
            return NoGuidance()
        reads = any("negative" in guider.signature.inputs or guider.signature.memory for guider in parts)
        return None if reads else WithoutNegative(guider=self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make one from a config dict, in which each guider is a config dict with its `_class_name`."""
        if "parts" not in config:
            return super().from_config(config)
        parts = [
            [start, from_config(cast("Mapping[str, Any]", guider)) if isinstance(guider, Mapping) else guider]
            for start, guider in config["parts"]
        ]
        return super().from_config({**config, "parts": parts})
