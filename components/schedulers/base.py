"""What every scheduler is: an immutable value that plans the turns of a run and moves a sample from one to the next."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from torch import Tensor

from ...graph.errors import ConfigError
from ...registry import schedulers
from . import config as _config
from . import names as _names
from .schedule import Schedule, Step

History = tuple[Tensor, ...]
"""What a solver remembers of earlier turns: float32 tensors, () at the start; its length is the warm-up order."""

STEP_ARGUMENT = {"published": False}
"""Metadata of a field that the reference takes as an argument of `step`: written to a config unless it is default."""

_TRAINING = ("prediction_type", "beta_schedule")
"""Choices that say how the model was trained: another scheduler must understand them, or refuse."""

_RENAMED = {"shift": "flow_shift", "flow_shift": "shift"}
"""Keys that mean the same in another class."""


@dataclass(frozen=True, kw_only=True)
class Scheduler(ABC):
    """Plans noise levels (`steps`) and moves a sample along them (`advance`). Fields are the published config keys.

    It holds no state, so one object serves any number of runs and threads; a run's state is the sample and the history.
    """

    unwritten: ClassVar[frozenset[str]] = frozenset()
    """Keys that a config may have, but that the published class does not write while they are default."""

    _given: frozenset[str] = field(default=frozenset(), init=False, compare=False, repr=False)
    """Keys that the config this came from stated. `from_scheduler` hands on these, and those that are not default."""

    def __post_init__(self) -> None:
        for key, hint in _config.keys(type(self)).items():
            object.__setattr__(self, key, _config.fit(type(self).__name__, key, getattr(self, key), hint))

    @property
    def process(self) -> str:
        """How clean and noise mix, and what the model is told: schedulers of one process may change places.

        "diffusion" keeps variance or adds noise, at training timesteps; "flow" goes straight between clean and noise;
        others have levels and a clock of their own, and a name for them.
        """
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

    def _refuse_middle(self, step: Step) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__} takes several turns for a step, and turn {step.index} lies inside one, but came "
            "without the history of its start. Start at a whole step: schedule[schedule.whole_step_of.index(k):]."
        )

    # -- configs -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Read a published config. On `Scheduler` itself, `_class_name` says which class; on a class, that class.

        Keys that start with "_" are metadata. Keys of other published schedulers are dropped, keys that nobody knows
        with a warning. null counts as not given where the key takes no null. A value that does not fit is refused; a
        choice that another class's config makes and this class lacks is left at its default, as diffusers does.
        """
        if cls is Scheduler:
            return cast(Self, _class_of(config).from_config(config))
        given = _config.known(cls, config)
        if config.get("_class_name", cls.__name__) != cls.__name__:
            given = _known_choices(_config.keys(cls), given)
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
    def from_scheduler(cls, other: "Scheduler", **keys: Any) -> Self:  # Any: config values
        """This class with what `other` states and both know: how the model was trained, spacing, sigma curve.

        Stated is a key that `other` read from a config or that differs from its default: a scheduler's own default
        is no statement about the model. A choice that this class lacks is left at its default, unless it says how the
        model was trained; then it is refused, as is a class for another process. `keys` are set besides. What does not
        go along is in `dropped(other)`.
        """
        made = cls.from_config({**cls._carried(other), **keys})
        if "prediction_type" in keys:
            _refuse_other_process(made, other)
        else:
            _trained_for(made, other)
        return made

    @classmethod
    def dropped(cls, other: "Scheduler") -> dict[str, Any]:  # Any: config values
        """What `other` states that `from_scheduler(other)` leaves out, for this class does not know it."""
        carried = cls._carried(other)
        return {key: value for key, value in other._stated().items() if carried.get(_RENAMED.get(key, key)) != value}

    @classmethod
    def _carried(cls, other: "Scheduler") -> dict[str, object]:
        mine = _config.keys(cls)
        stated = other._stated()
        if other.process == "flow" and "use_flow_sigmas" in mine:  # a solver that can go along flow does so
            stated = {**stated, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        for key, same in _RENAMED.items():
            if key in stated and key not in mine and same in mine:
                stated[same] = stated.pop(key)
        return _known_choices(mine, {key: value for key, value in stated.items() if key in mine})

    @classmethod
    def coerce(cls, value: object, current: "Scheduler | None" = None) -> "Scheduler":
        """A scheduler from what a user may write: an object, a name, or a config dict.

        A published or customary name ("dpmpp_2m_karras", "Euler a") gives that class, with what `current` states and
        the name says. A dict with `_class_name` is a published config and stands for itself. A dict without one changes
        these keys of `current`. An object or config that `current`'s model was not trained for is refused.
        """
        if isinstance(value, str):
            named, keys = _names.find(value, current.process if current is not None else "diffusion")
            return named.from_scheduler(current, **keys) if current is not None else named.from_config(keys)
        if isinstance(value, Scheduler):
            return _trained_for(value, current)
        if isinstance(value, Mapping):
            config = cast(Mapping[str, object], value)
            if current is None or "_class_name" in config:
                return _trained_for(_class_of(config).from_config(config), current)
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


def _known_choices(mine: Mapping[str, Any], config: Mapping[str, object]) -> dict[str, object]:  # Any: type forms
    """`config` without choices that are not among those of `mine`, but with those that say how a model was trained."""
    named = {key: _config.choices(mine[key]) for key in config}
    return {key: v for key, v in config.items() if key in _TRAINING or not named[key] or v in named[key]}


def _refuse_other_process(made: Scheduler, current: Scheduler) -> None:
    if made.process == current.process:
        return
    ways = {"diffusion": "keeps or adds variance", "flow": "goes straight between clean and noise"}
    way = ways.get(made.process, "has noise levels and a clock of its own")
    fitting = {"diffusion": "'euler', 'dpmpp_2m' or 'unipc'", "flow": "'flow_euler', 'dpmpp_2m' or 'unipc'"}
    named = f"one by name, such as {fitting[current.process]}," if current.process in fitting else "one of that kind,"
    raise ConfigError(
        f"{type(made).__name__} {way} ({made.process}), but the model of {type(current).__name__} was "
        f"trained for {current.process}, and would give grey noise. Choose {named} and it takes over what the model "
        "needs."
    )


def _trained_for(made: Scheduler, current: Scheduler | None) -> Scheduler:
    """`made`, if the model of `current` predicts what it expects."""
    if current is not None:
        _refuse_other_process(made, current)
        wanted, expected = (getattr(s, "prediction_type", None) for s in (current, made))
        if wanted and expected and wanted != expected and {wanted, expected} != {"sample", "original_sample"}:
            raise ConfigError(
                f"This {type(made).__name__} expects prediction_type={expected!r}, but the model of "
                f"{type(current).__name__} predicts {wanted!r}. Give the scheduler by name, or set prediction_type="
                f"{wanted!r}. If the model's own config is wrong, give {{'prediction_type': {expected!r}}}."
            )
    return made
