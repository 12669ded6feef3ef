"""The table of methods: by name, a function that makes the recipe and what is trained of a preset and settings."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from ...graph import ConfigError, Graph
from ...registry import did_you_mean, printable
from .consistency import lcm, lcm_lora
from .control import controlnet, t2i_adapter
from .decoder import decoder
from .denoisers import dreambooth, finetune, lora, unconditional
from .embedding import embedding
from .image_prompt import ip_adapter
from .method import Method
from .objective import Objective
from .settings import fitted_values

METHODS: Mapping[str, Callable[..., Method]] = {
    "lora": lora,
    "dreambooth": dreambooth,
    "finetune": finetune,
    "unconditional": unconditional,
    "decoder": decoder,
    "embedding": embedding,
    "controlnet": controlnet,
    "t2i_adapter": t2i_adapter,
    "ip_adapter": ip_adapter,
    "lcm": lcm,
    "lcm_lora": lcm_lora,
}
"""Functions `(pipe, objective, *, settings) -> Method`. One without `objective` has a loss of its own."""


def settings_of(name: str, *, objective: bool = True) -> Mapping[str, Any]:  # Any: type hints
    """The settings of a method and their types, those of its objective among them.

    objective: off, without those of the objective, for a recipe that has its blocks.

    Raises:
        ConfigError: an unknown name.
    """
    function = _function(name)
    hints = get_type_hints(function, include_extras=True)
    own = {p.name: hints[p.name] for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY}
    return {**own, **(get_type_hints(Objective, include_extras=True) if objective and "objective" in hints else {})}


def make_method(name: str, pipe: Graph, settings: Mapping[str, Any]) -> Method:  # Any: values, which are checked
    """Make a method for a preset.

    Args:
        name: of `METHODS`.
        pipe: the preset, with its components.
        settings: by name; see `settings_of`.

    Raises:
        ConfigError: an unknown name, settings that are unknown or missing, or values that do not fit; all of them.
    """
    known = settings_of(name)
    unknown = [key for key in settings if key not in known]
    problems = [f"{printable(key)} is no setting of {name!r}. {did_you_mean(key, known)}" for key in unknown]
    checked = fitted_values({key: settings[key] for key in settings if key in known}, known, problems)
    parameters = inspect.signature(_function(name)).parameters.values()
    needed = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    problems += [f"{key} is needed. Pass {key}=." for key in needed if key not in settings]
    if problems:
        text = problems[0] if len(problems) == 1 else f"{len(problems)} problems\n  " + "\n  ".join(problems)
        raise ConfigError(f"The settings of {name!r}: {text}")
    function, of_objective = _function(name), {field.name for field in fields(Objective)}
    if "objective" not in inspect.signature(function).parameters:
        return function(pipe, **checked)
    objective = Objective(**{key: value for key, value in checked.items() if key in of_objective})
    return function(pipe, objective, **{key: value for key, value in checked.items() if key not in of_objective})


def _function(name: str) -> Callable[..., Method]:
    if name not in METHODS:
        raise ConfigError(f"{printable(repr(name))} is no method of training. {did_you_mean(name, METHODS)}")
    return METHODS[name]
