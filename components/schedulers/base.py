"""What every scheduler is: an immutable value that plans the turns of a run and moves a sample from one to the next."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, cast

from torch import Tensor

from ...graph.errors import ConfigError
from ...registry import schedulers
from . import config as _config
from .schedule import Schedule, Step

History = tuple[Tensor, ...]
"""What a solver remembers of earlier turns: float32 tensors, () at the start; its length is the warm-up order."""

STEP_ARGUMENT = {"published": False}
"""Metadata of a field that the reference takes as an argument of `step`: written to a config unless it is default."""

_TRAINING = ("prediction_type", "beta_schedule")
"""Choices that say how the model was trained: another scheduler must understand them, or refuse."""


@dataclass(frozen=True, kw_only=True)
class Scheduler(ABC):
    """Plans noise levels (`steps`) and moves a sample along them (`advance`). Fields are the published config keys.

    It holds no state, so one object serves any number of runs and threads; a run's state is the sample and the history.
    """

    _given: frozenset[str] = field(default=frozenset(), init=False, compare=False, repr=False)
    """Keys that the config this came from stated. `from_scheduler` hands on these, and those that are not default."""

    def __post_init__(self) -> None:
        for key, hint in _config.keys(type(self)).items():
            object.__setattr__(self, key, _config.fit(type(self).__name__, key, getattr(self, key), hint))

    @property
    def process(self) -> Literal["diffusion", "flow"]:
        """How clean and noise mix: "diffusion" keeps variance or adds noise, "flow" goes straight between them."""
        return "diffusion"

    # -- a run ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        """Plan `n` whole steps, or the steps that `timesteps` or `sigmas` say (then `n` is not looked at).

        timesteps: falling, in training timesteps. sigmas: falling noise levels, the last one where the run ends.
        image_tokens: rows of the packed image, which schedulers with a shift by resolution need; others ignore it.
        """

    @abstractmethod
    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """The sample after this turn, in float32, and what to remember.

        sample: (batch, ...) at `step.level`. prediction: the model's answer to `sample * step.scale_in` at `step.t`.
        noise: unit normal, shaped like the sample; wanted exactly when `step.noisy`. Nothing is read back to the host.
        """

    @abstractmethod
    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The clean sample that this prediction points to, in float32: for previews, and the heart of most solvers."""

    def add_noise(self, sample: Tensor, noise: Tensor, step: Step) -> Tensor:
        """The forward process: a clean sample at this step's level, in float32. Shapes are alike."""
        alpha, sigma = step.level
        return alpha * sample.float() + sigma * noise.float()

    def _noise(self, noise: Tensor | None, step: Step) -> Tensor:
        if noise is None:
            raise ConfigError(
                f"{type(self).__name__} adds noise in turn {step.index}, but `advance` was given none. "
                "Draw unit noise shaped like the sample whenever step.noisy, and pass it as `noise`."
            )
        return noise.float()

    # -- configs -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Read a published config. On `Scheduler` itself, `_class_name` says which class; on a class, that class.

        Keys that start with "_" are metadata. Keys of other published schedulers are dropped, keys that nobody knows
        with a warning. null counts as not given where the key takes no null. A value that does not fit is refused.
        """
        if cls is Scheduler:
            return cast(Self, _class_of(config).from_config(config))
        given = _config.known(cls, config)
        made = cls(**given)
        object.__setattr__(made, "_given", frozenset(given))
        return made

    def to_config(self) -> dict[str, Any]:  # Any: JSON values
        """The published keys and `_class_name`, sorted; what `from_config` reads, here and in diffusers."""
        return _config.to_config(self)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write `scheduler_config.json` into `folder`, whole or not at all; gives its path."""
        return _config.write(folder, self.to_config())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], subfolder: str | None = None) -> Self:
        """Read `folder/subfolder/scheduler_config.json` by the rules of `from_config`."""
        return cls.from_config(_config.read(folder, subfolder))

    @classmethod
    def from_scheduler(cls, other: "Scheduler") -> Self:
        """This class with what `other` states and both know: how the model was trained, spacing, sigma curve.

        Stated is a key that `other` read from a config or that differs from its default: a scheduler's own default
        is no statement about the model. A choice that this class lacks is left at its default, unless it says how the
        model was trained; then it is refused.
        """
        mine = _config.keys(cls)
        stated = {key: value for key, value in other._stated().items() if key in mine}
        for key, value in list(stated.items()):
            named = _config.choices(mine[key])
            if named and value not in named and key not in _TRAINING:
                del stated[key]
        return cls.from_config(stated)

    @classmethod
    def coerce(cls, value: object, current: "Scheduler | None" = None) -> "Scheduler":
        """A scheduler from what a user may write: an object, a name, or a config dict.

        A published or customary name gives that class, with what `current` states. A dict with `_class_name` is a
        published config and stands for itself. A dict without one changes these keys of `current`.
        """
        if isinstance(value, Scheduler):
            return value
        if isinstance(value, str):
            named = cast(type[Scheduler], schedulers[value])
            return named.from_scheduler(current) if current is not None else named()
        if isinstance(value, Mapping):
            config = cast(Mapping[str, object], value)
            if current is None or "_class_name" in config:
                return _class_of(config).from_config(config)
            return type(current).from_config({**current._stated(), **config})
        raise ConfigError(
            f"A scheduler came as {value!r}. It may be a scheduler object, a name such as 'EulerDiscreteScheduler' or "
            "'euler_a', or a config dict such as {'use_karras_sigmas': True}."
        )

    def _stated(self) -> dict[str, object]:
        known = _config.keys(type(self))
        return {
            item.name: value
            for item in fields(self)
            if item.name in known and ((value := getattr(self, item.name)) != item.default or item.name in self._given)
        }


def _class_of(config: Mapping[str, object]) -> type[Scheduler]:
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ConfigError(
            "This config does not say which scheduler it is for: it has no '_class_name'. Add one, such as "
            "'EulerDiscreteScheduler', or call from_config of that class."
        )
    return schedulers[name]
