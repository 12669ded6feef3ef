"""The settings of a training: one checked value, from keywords or from a TOML or JSON file."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_type_hints

from annotated_types import Ge, Gt

from ...graph import ConfigError
from ...graph.json_text import JsonTextError, parse, read_text
from ...graph.validate import Unfit, fitted, value_text
from ...registry import did_you_mean, printable

Choice = str | Mapping[str, Any]
"""A name, or a table with a `name` and the options of that name. Any: plain values, which each name checks."""
Values = Mapping[str, Any]  # Any: values of settings
Count = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a training runs. What is trained, and on which data, is not among them.

    A *step* is one step of the optimizer. Its gradient is the mean over all its samples: `batch_size` rows, in
    `accumulation` batches, in each process.

    Raises:
        ConfigError: values of other types, or values that exclude each other. It lists all of them.
    """

    steps: Count | None = None
    """Steps of the whole training. By default 1000, or as many as `epochs` have."""
    epochs: Count | None = None
    """Passes over the data, in place of `steps`."""
    batch_size: Count = 1
    """Rows of one forward in one process."""
    accumulation: Count = 1
    """Batches of one step in one process."""
    seed: Annotated[int, Ge(0)] = 0
    """It decides the order of the samples and all random numbers."""
    draws: Literal["per_row", "sequential"] = "per_row"
    """Random numbers: a seed for each row, made of `seed`, the epoch and the place of the sample in it; or one
    generator that is carried from batch to batch, as other trainers do. With a seed for each row, noise does not depend
    on the batch size, the accumulation and the number of processes."""
    optimizer: Choice = "adamw"
    """A name, or `{"name": "adamw", "weight_decay": 0.0}`."""
    learning_rate: Annotated[float, Gt(0)] | None = None
    """By default that of the optimizer."""
    learning_rates: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of single groups of parameters, by name: `{"text_encoder": 5e-5}`."""
    lr_schedule: Choice = "constant"
    """A name, or `{"name": "cosine_with_restarts", "cycles": 3}`."""
    warmup: Annotated[int, Ge(0)] = 0
    """Steps in which the learning rate rises from 0."""
    max_gradient_norm: Annotated[float, Gt(0)] | None = 1.0
    """Gradients with a larger norm are scaled down to it. None: they are not."""
    ema: bool | Mapping[str, Any] = False  # Any: plain values, which EMA checks
    """Keep a moving average of the weights, for pictures, validation and the result: True, or its options."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """The dtype of autocast. What is trained stays in float32."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass, in place of keeping their values. Gradients are the same."""
    device: str | None = None
    """By default the first accelerator, or the CPU where there is none."""
    validate_every: Count | None = None
    """Steps between two losses on the validation data."""
    sample_every: Count | None = None
    """Steps between two sets of sample pictures."""
    samples: tuple[Mapping[str, Any], ...] = ()  # Any: inputs of the preset
    """The calls of the preset that draw them: `[{"prompt": "a fox", "seed": 7}]`."""
    save_every: Count | None = None
    """Steps between two checkpoints. By default one is saved at the end, and at Ctrl-C."""
    keep: Count = 2
    """How many checkpoints are kept; the one with the least validation loss is kept besides."""
    resume: str | Path | None = None
    """"auto": the newest checkpoint of the output folder, if there is one. Else the folder of a checkpoint."""
    trackers: tuple[str, ...] | None = None
    """Trackers of accelerate that get the losses. By default TensorBoard, if it is installed."""

    def __post_init__(self) -> None:
        problems = fit_fields(self)
        if self.steps is not None and self.epochs is not None:
            problems.append(f"steps and epochs exclude each other, got {self.steps} and {self.epochs}. Leave one out.")
        if self.sample_every is not None and not self.samples:
            problems.append('sample_every needs samples, such as samples=[{"prompt": "a fox", "seed": 7}].')
        raise_problems("the settings of a training", problems)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:  # Any: the checked values
        """Make the settings of a mapping. Unknown names are a ConfigError that names similar ones."""
        known = cls.names()
        unknown = [name for name in values if name not in known]
        texts = [f"{printable(name)} is no setting. {did_you_mean(name, known)}" for name in unknown]
        raise_problems("the settings of a training", texts)
        return cls(**values)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(f.name for f in fields(cls))


def fit_fields(value: Any, place: str = "") -> list[str]:  # a frozen dataclass
    """Set the fields of a frozen dataclass to what their types make of them, and give the problems.

    place: what the names begin with in the problems.
    """
    hints, problems = get_type_hints(type(value), include_extras=True), list[str]()
    for name, made in fitted_values({name: getattr(value, name) for name in hints}, hints, problems, place).items():
        object.__setattr__(value, name, made)
    return problems


def fitted_values(values: Values, hints: Mapping[str, Any], problems: list[str], place: str = "") -> dict[str, Any]:
    """The values as their types make them. Those that do not fit are left out, and are added to the problems."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        try:
            made[name] = fitted(value, hints[name])
        except Unfit as error:
            problems.append(f"{place}{name} {error}, got {value_text(value)}.")
    return made


def raise_problems(what: str, problems: Sequence[str]) -> None:
    """Raise one ConfigError for all problems, if there are any."""
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{what}: {len(problems)} problems\n" + "\n".join(f"  {text}" for text in problems))


def named_choice(setting: str, choice: Choice) -> tuple[str, dict[str, Any]]:
    """The name and the options of a choice. ConfigError for a table without a name."""
    if isinstance(choice, str):
        return choice, {}
    options = dict(choice)
    if not isinstance(name := options.pop("name", None), str):
        raise ConfigError(f'{setting}: needs a name, got {value_text(choice)}. Pass {{"name": …}} and its options.')
    return name, options


def read_settings(file: str | os.PathLike[str]) -> dict[str, Any]:
    """The values of a TOML or JSON file, by name. They are checked where they are used.

    Raises:
        ConfigError: a file that is missing, or that is no table.
    """
    path = Path(file)
    try:
        text = read_text(path, "config_bytes")
        found = tomllib.loads(text) if path.suffix == ".toml" else parse(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}). Pass a TOML or JSON file.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}. Correct that place.") from None
    except JsonTextError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: needs a table of settings, got {value_text(found)}.")
    return cast("dict[str, Any]", found)
