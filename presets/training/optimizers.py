"""Optimizers by name, with their options. A missing package is an error with the pip line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch.optim import Optimizer

from ...components.training.trained import ParameterGroup
from ...graph import ConfigError
from ...registry import Names, did_you_mean
from .options import checked_options
from .settings import Choice, named_choice


@dataclass(frozen=True)
class OptimizerKind:
    """An optimizer class that is imported at its first use."""

    module: str
    attribute: str
    learning_rate: float
    """The rate that training uses where none is set."""
    pip: str = ""
    """What to install for it; "" for torch's."""
    one_rate: bool = False
    """Whether all groups need the same learning rate."""
    parts: bool = True
    """Whether it can change parts of weights, as FSDP has them."""

    def load(self, name: str) -> Callable[..., Optimizer]:
        """The class.

        Raises:
            ConfigError: its package is missing, or older than the class.
        """
        package = self.module.partition(".")[0]
        if find_spec(package) is None:
            raise ConfigError(f"optimizer {name!r}: needs the package {package}. Install it: pip install {self.pip}")
        found = getattr(import_module(self.module), self.attribute, None)
        if found is None:
            raise ConfigError(
                f"optimizer {name!r}: the installed {package} has no {self.attribute}. "
                f"Install a newer one: pip install -U {self.pip or package}"
            )
        return found


_BITSANDBYTES = '"sfumato[bitsandbytes]"'
_OPTIMIZERS = '"sfumato[train-optimizers]"'
OPTIMIZERS: Names = Names(
    "optimizer",
    {
        "adamw": OptimizerKind("torch.optim", "AdamW", 1e-4),
        "adam": OptimizerKind("torch.optim", "Adam", 1e-4),
        "adafactor": OptimizerKind("torch.optim", "Adafactor", 1e-4, parts=False),
        "sgd": OptimizerKind("torch.optim", "SGD", 1e-2),
        "adamw_8bit": OptimizerKind("bitsandbytes.optim", "AdamW8bit", 1e-4, _BITSANDBYTES, parts=False),
        "paged_adamw_8bit": OptimizerKind("bitsandbytes.optim", "PagedAdamW8bit", 1e-4, _BITSANDBYTES, parts=False),
        "lion_8bit": OptimizerKind("bitsandbytes.optim", "Lion8bit", 3e-5, _BITSANDBYTES, parts=False),
        "prodigy": OptimizerKind("prodigyopt", "Prodigy", 1.0, _OPTIMIZERS, one_rate=True, parts=False),
        "adamw_schedule_free": OptimizerKind("schedulefree", "AdamWScheduleFree", 1e-4, _OPTIMIZERS),
        "radam_schedule_free": OptimizerKind("schedulefree", "RAdamScheduleFree", 1e-4, _OPTIMIZERS),
        "sgd_schedule_free": OptimizerKind("schedulefree", "SGDScheduleFree", 1e-2, _OPTIMIZERS),
    },
)
"""By name. A package adds its own `OptimizerKind` with the entry point group `sfumato.optimizers`."""


def make_optimizer(
    choice: Choice,
    groups: Sequence[ParameterGroup],
    learning_rate: float | None = None,
    learning_rates: Mapping[str, float] | None = None,
    *,
    sharded: bool = False,
) -> Optimizer:
    """Make an optimizer of the groups. Its groups have a `name` beside what torch needs.

    Args:
        choice: the name, or a table with it and its options.
        groups: what it changes.
        learning_rate: of the groups that `learning_rates` does not name; by default the optimizer's.
        learning_rates: by name of a group.
        sharded: whether each process will have a part of the weights.

    Raises:
        UnknownName: another name of an optimizer.
        ConfigError: an unknown option or group, a package that is missing, or one that needs whole weights.
    """
    name, options = named_choice("optimizer", choice)
    kind: OptimizerKind = OPTIMIZERS[name]
    made = kind.load(name)
    options = checked_options(f"optimizer {name!r}", made, options, given=1)
    if "lr" in options:
        raise ConfigError(f"optimizer {name!r}: lr is a setting of its own. Pass learning_rate={options['lr']}.")
    rates = dict(learning_rates or {})
    names = dict.fromkeys(group.name for group in groups)
    for unknown in rates.keys() - names.keys():
        raise ConfigError(f"learning_rates: there is no group {unknown!r}. {did_you_mean(unknown, names)}")
    default = kind.learning_rate if learning_rate is None else learning_rate
    dicts = list[dict[str, Any]]()
    for group in groups:
        rate = rates.get(group.name, default) * group.lr_factor
        dicts.append({"params": list(group.parameters), "lr": rate, "name": group.name})
    found = {each["lr"] for each in dicts}
    if kind.one_rate and len(found) > 1:
        rates_text = ", ".join(f"{each['name']} {each['lr']:g}" for each in dicts)
        raise ConfigError(
            f"optimizer {name!r}: needs one learning rate for all groups, got {rates_text}. Remove learning_rates and "
            f"factors, or choose another optimizer."
        )
    if sharded and not kind.parts:
        able = ", ".join(each for each in OPTIMIZERS if OPTIMIZERS[each].parts)
        raise ConfigError(f"optimizer {name!r}: needs whole weights, and FSDP divides them. Choose one of {able}.")
    try:
        return made(dicts, lr=default, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {name!r}: {error}. Change its options.") from error
