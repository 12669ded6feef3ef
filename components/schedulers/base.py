"""The base of all schedulers: an immutable value that plans the steps of a run and moves a sample along them."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast, final

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from ...graph.fields import Lazy
from ...registry import schedulers
from . import config as _config
from . import customary_names as _names
from .history import History
from .keys import RULES
from .request import Accepts, Request, checked
from .schedule import WORK, Schedule, Step

_TRAINING = ("prediction_type", "beta_schedule")
"""Choices that describe how the model was trained: another scheduler must have them, or refuse."""

_ZERO_SNR = "rescale_betas_zero_snr"
"""Describes how the model was trained too: Lin et al. 2023."""

_SYNONYMS = {"shift": "flow_shift", "flow_shift": "shift"}
"""Keys that mean the same in another class."""


@dataclass(frozen=True, kw_only=True)
class Scheduler(ABC):
    """Plans noise levels (`steps`) and moves a sample along them (`advance`). Fields are the published config keys.

    A subclass implements `process`, `plan`, `advance` and `denoised`. It holds no state, so one object
    serves any number of runs and threads; a run's state is the sample and the history.
    """

    __belongs_to__: ClassVar[str] = WORK

    accepts: ClassVar[Accepts] = "either"
    """The arguments among `timesteps` and `sigmas` that `steps` accepts."""
    rules: ClassVar[tuple[Callable[[Any], None], ...]] = ()  # Any: a scheduler of the class that lists them
    """Functions that raise ConfigError for combinations of keys that this class refuses."""
    unwritten: ClassVar[frozenset[str]] = frozenset()
    """Keys that a config may have, but that the published class does not write while they are default."""

    _config_keys: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """The keys that a config set; `from_scheduler` keeps these, and those that are not default."""
    _other_keys: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False, repr=False)
    """The keys of that config that this class lacks, or whose choice it lacks: kept for the next scheduler."""

    def __post_init__(self) -> None:
        for key, hint in _config.annotations(type(self)).items():
            object.__setattr__(self, key, _config.coerced(type(self).__name__, key, getattr(self, key), hint))
        for rule in (*RULES, *self.rules):
            rule(self)

    @property
    @abstractmethod
    def process(self) -> str:
        """The name of the process: the mix of clean sample and noise, and the timesteps that the model gets.

        "diffusion" keeps variance or adds noise, at training timesteps; "flow" goes straight between clean and noise.
        Other processes have levels and timesteps of their own, and a name for them. Schedulers
        of one process may replace each other.
        """

    # -- a run ---------------------------------------------------------------------------------------------------------

    @final
    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        """Plan `n` whole steps, or the steps at `timesteps` or `sigmas` (then `n` is ignored).

        timesteps: falling, in training timesteps. sigmas: falling noise levels, the last one where the run ends.
        image_tokens: tokens of the packed image, for schedulers with a shift by resolution; others ignore it.
        Raises ConfigError for arguments that this scheduler does not accept, and where they and the config give levels
        that are no numbers.
        """
        request = checked(type(self).__name__, self.accepts, n, timesteps, sigmas, image_tokens)
        try:
            with np.errstate(all="ignore"):
                schedule = self.plan(request)
            if any(map(math.isnan, (*schedule.sigmas, *schedule.timesteps))):
                raise ArithmeticError("they are not numbers")
        except ConfigError:
            raise
        except (ArithmeticError, IndexError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{type(self).__name__} has no levels of noise for this run: {error}. Check the numbers of its config, "
                "or use fewer steps."
            ) from error
        return schedule._with(made_by=repr(self))

    @abstractmethod
    def plan(self, request: Request) -> Schedule:
        """The schedule of a checked request."""

    @abstractmethod
    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """The sample after this step, in float32, and the new history.

        sample: (batch, ...) at `step.level`. prediction: the model's output for `sample * step.scale_in` at `step.t`.
        noise: unit normal, shaped like the sample; needed exactly when `step.noisy`. Nothing is read back to the host.
        """

    @abstractmethod
    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The clean sample that this prediction points to, in float32: for previews, and the heart of most solvers."""

    def add_noise(self, sample: Tensor, noise: Tensor, step: Step) -> Tensor:
        """The forward process: a clean sample at this step's level, in float32. Shapes are alike."""
        alpha, sigma = step.level
        return alpha * sample.float() + sigma * noise.float()

    def _noise(self, noise: Tensor | None, step: Step) -> Tensor:
        """The noise of this step, in float32. ConfigError where there is none."""
        if noise is None:
            raise ConfigError(
                f"{type(self).__name__} adds noise in step {step.index}, but advance got none. "
                "Draw unit noise shaped like the sample whenever step.noisy, and pass it as noise=."
            )
        return noise.float()

    def _whole_step_start(self, history: History, step: Step) -> History:
        """The history from the start of this whole step. ConfigError where a run starts inside one."""
        if not history:
            raise ConfigError(
                f"{type(self).__name__} makes several model calls for a whole step. Step {step.index} is inside one, "
                "and there is no history of its start. Start at a whole step: "
                "schedule[schedule.places.index(k):]."
            )
        return history

    # -- configs -------------------------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Read a published config. `Scheduler.from_config` makes the class in `_class_name`, others their own class.

        Keys that start with "_" are metadata. Keys of other published schedulers are kept for `from_scheduler` and
        `to_config`; unknown keys are dropped with a warning. null means "not set" where the key takes no null. A value
        that does not fit is a ConfigError; a choice that another class's config makes and this class lacks is left at
        its default, as in diffusers.
        """
        if cls is Scheduler:
            return cast(Self, _class_of(config).from_config(config))
        own = _config.known(cls, config)
        if config.get("_class_name", cls.__name__) != cls.__name__:
            own = _known_choices(cls, own)
        return cls(**own, _config_keys=frozenset(own), _other_keys=_config.others(config, own))

    def to_config(self) -> dict[str, Any]:  # Any: JSON values
        """The published keys and `_class_name`, sorted, as `from_config` reads them here and in diffusers.

        Keys of other classes that the config had are among them, as in diffusers.
        """
        return _config.to_config(self, self._other_keys)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write `scheduler_config.json` into `folder`, whole or not at all, and return its path."""
        return _config.write(folder, self.to_config())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        subfolder: str | None = None,
        *,
        config: Mapping[str, object] | None = None,
    ) -> Self:
        """Read `folder/subfolder/scheduler_config.json` as `from_config` does. LoadError if it cannot be read.

        config: keys in place of those of the file.
        """
        return cls.from_config(_config.read(folder, subfolder) if config is None else config)

    @classmethod
    def from_scheduler(cls, other: "Scheduler", **keys: Any) -> Self:  # Any: config values
        """This class with the explicit keys of `other` that both have: training noise, spacing, sigma curve.

        A key is explicit if `other` read it from a config or if it differs from its default. Those that this class
        lacks have no effect here, but the next `from_scheduler` has them again. A choice that this class lacks is left
        at its default, unless it describes how the model was trained; then it is a ConfigError, as is a class for
        another process. A model of zero terminal SNR starts at the last timestep. `keys` are set besides.
        `dropped(other)` lists what is left out.
        """
        explicit = cls._translated(other)
        taken = {**_known_choices(cls, explicit), **keys}
        _start_without_signal(cls, taken, keys)
        made = cls.from_config(taken)
        kept = {key: value for key, value in explicit.items() if key not in taken}
        made = replace(made, _other_keys={**kept, **made._other_keys})
        if "prediction_type" in keys:
            _refuse_other_process(made, other)
        else:
            _trained_for(made, other)
        return made

    @classmethod
    def dropped(cls, other: "Scheduler") -> dict[str, Any]:  # Any: config values
        """The explicit keys of `other` that `from_scheduler(other)` leaves out, since this class lacks them."""
        taken = _known_choices(cls, cls._translated(other))
        own = _config.keys(type(other))
        return {
            key: value
            for key, value in other._explicit().items()
            if key in own and taken.get(_SYNONYMS.get(key, key)) != value
        }

    @classmethod
    def _translated(cls, other: "Scheduler") -> dict[str, object]:
        """The explicit keys of `other`, by the names that this class has for them."""
        own = _config.keys(cls)
        explicit = other._explicit()
        if other.process == "flow" and "use_flow_sigmas" in own:  # a solver that can go along flow does so
            explicit = {**explicit, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        for key, synonym in _SYNONYMS.items():
            if key in explicit and key not in own and synonym in own:
                explicit[synonym] = explicit.pop(key)
        return explicit

    @classmethod
    def is_name(cls, value: str) -> bool:
        """Whether a text is a name: for schedulers all are, and none is a path."""
        return True

    @classmethod
    def coerce(cls, value: object, current: "Scheduler | Lazy | None" = None) -> "Scheduler":
        """A scheduler from a value that a user may pass: an object, a name, or a config dict.

        A published or customary name ("dpmpp_2m_karras", "Euler a") makes that class, with the explicit keys of
        `current` and those of the name. A dict with `_class_name` is a published config, complete in itself. A dict
        without one changes these keys of `current`. ConfigError for an object or config that `current`'s model was not
        trained for.
        """
        current = cast("Scheduler", current.load()) if isinstance(current, Lazy) else current
        if isinstance(value, str):
            named, keys = _names.find(value, current.process if current is not None else "diffusion")
            return named.from_scheduler(current, **keys) if current is not None else named.from_config(keys)
        if isinstance(value, Scheduler):
            return _trained_for(value, current)
        if isinstance(value, Mapping):
            config = cast(Mapping[str, object], value)
            if current is None or "_class_name" in config:
                return _trained_for(_class_of(config).from_config(config), current)
            return current._with_keys(config)
        raise ConfigError(
            f"A scheduler is an object, a name such as 'EulerDiscreteScheduler' or 'euler_a', or a config dict such as "
            f"{{'use_karras_sigmas': True}}. Got {value!r}."
        )

    def _with_keys(self, config: Mapping[str, object]) -> "Scheduler":
        """This scheduler with some keys changed."""
        made = type(self).from_config({**self._own_keys(), **config})
        return replace(made, _other_keys={**self._other_keys, **made._other_keys})

    def _explicit(self) -> dict[str, object]:
        return {**self._other_keys, **self._own_keys()}

    def _own_keys(self) -> dict[str, object]:
        known = _config.keys(type(self))
        return {
            item.name: value
            for item in fields(self)
            if item.name in known
            and ((value := getattr(self, item.name)) != item.default or item.name in self._config_keys)
        }


def _class_of(config: Mapping[str, object]) -> type[Scheduler]:
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise ConfigError(
            "This scheduler config has no '_class_name'. Add one, such as 'EulerDiscreteScheduler', or call "
            "from_config of that class."
        )
    return schedulers[name]


def _known_choices(cls: type[Scheduler], config: Mapping[str, object]) -> dict[str, object]:
    """The keys of `config` that `cls` has, without choices that it lacks, but with those that describe training."""
    own = _config.keys(cls)
    named = {key: _config.choices(own[key]) for key in config if key in own}
    return {key: config[key] for key, has in named.items() if key in _TRAINING or not has or config[key] in has}


def _start_without_signal(cls: type[Scheduler], taken: dict[str, object], keys: Mapping[str, object]) -> None:
    """Start at the last timestep, where the model was trained without signal: Lin et al. 2023, section 3.3.

    taken: keys for a scheduler of `cls`; changed, unless `keys` set the spacing. "leading" starts one stride earlier.
    """
    spacing = taken.get("timestep_spacing", getattr(cls, "timestep_spacing", None))
    if taken.get("rescale_betas_zero_snr") and spacing == "leading" and "timestep_spacing" not in keys:
        taken["timestep_spacing"] = "trailing"


def _refuse_other_process(made: Scheduler, current: Scheduler) -> None:
    if made.process == current.process:
        return
    fitting = {
        "diffusion": "'euler', 'dpmpp_2m' or 'unipc'",
        "flow": "'flow_euler', 'dpmpp_2m' or 'unipc'",
        "EDM": "'euler' or 'dpmpp_2m'",
    }
    named = f" by name, such as {fitting[current.process]}" if current.process in fitting else " for that process"
    raise ConfigError(
        f"{type(made).__name__} is for models of {made.process}, but the model of {type(current).__name__} was trained "
        f"for {current.process}, so the result would be grey noise. Pass a scheduler{named}: it takes over the keys "
        "that the model needs."
    )


def _trained_for(made: Scheduler, current: Scheduler | None) -> Scheduler:
    """`made`, if the model of `current` has the kind of prediction that it expects."""
    if current is not None:
        _refuse_other_process(made, current)
        if getattr(current, _ZERO_SNR, False) and _ZERO_SNR not in _config.keys(type(made)):
            raise ConfigError(
                f"{type(made).__name__} has no {_ZERO_SNR}, but the model of {type(current).__name__} was trained with "
                "it: without it the levels of noise are wrong. Pass another scheduler, such as 'euler' or 'dpmpp_2m'."
            )
        predicts, expected = (getattr(s, "prediction_type", None) for s in (current, made))
        if predicts and expected and predicts != expected and {predicts, expected} != {"sample", "original_sample"}:
            raise ConfigError(
                f"This {type(made).__name__} expects prediction_type={expected!r}, but the model of "
                f"{type(current).__name__} predicts {predicts!r}. Pass the scheduler by name, or set prediction_type="
                f"{predicts!r}. If the model's own config is wrong, pass {{'prediction_type': {expected!r}}}."
            )
    return made
