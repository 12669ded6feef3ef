"""Scheduler configs as published: which keys there are, which values fit, and how they are read and written."""

import os
import types
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from math import isfinite, isinf
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le

from ...graph.errors import ConfigError
from ...graph.limits import AboveLimit, AtMost, check_limit
from ...graph.validate import value_text
from ...registry import did_you_mean
from ..storage.files import read_json, write_json

FILE = "scheduler_config.json"
INFINITE = "may be infinite"
"""A tag on the type of a float key. Other numbers are finite."""
_LARGEST = 2**64
"""Larger numbers are no value of a key: seeds have 64 bits, and published floats are below 10**6."""

_PUBLISHED = """
algorithm_type alpha_cum_end alpha_cum_start base_image_seq_len base_shift beta_end beta_max beta_min beta_schedule
beta_start block_length clip_denoised clip_sample clip_sample_range correct_steps corrector_k corrector_order
corrector_selection corrector_selection_tau corrector_steps disable_corrector dynamic_thresholding_ratio
editing_threshold entropy_bound eps eta euler_at_final final_sigmas_type final_step_size_scale flow_shift gamma
gamma_cum_start interpolation_type invert_sigmas lambda_min_clipped lower_order_final mask_token_id
max_image_seq_len max_shift minimal_topk n_grid noise_mode noise_sampler_seed num_inference_steps
num_policy_substeps num_train_timesteps num_vec_classes original_inference_steps predict_x0 prediction_type
predictor_order rescale_betas_zero_snr rho s s_churn s_max s_min s_noise sample_max_value sampling_eps
scale_factors scaler schedule_mode scheduler_type set_alpha_to_one shift shift_terminal sigma_data sigma_max
sigma_min sigma_schedule skip_prk_steps snr snr_shift_scale solver_order solver_p solver_type stage_range stages
steps_offset stochastic_sampling t_max t_min tau_func threshold thresholding time_shift_type timestep_scaling
timestep_spacing timestep_type trained_betas tsr_k tsr_sigma upscale_mode use_beta_sigmas use_dynamic_shifting
use_exponential_sigmas use_flow_sigmas use_karras_sigmas use_lu_lambdas variance_type
"""
PUBLISHED_KEYS = frozenset(_PUBLISHED.split())
"""The config keys of all schedulers in diffusers 0.42.1. A config of one scheduler often carries keys of another."""
OWN_KEYS = frozenset({"sigma_curve", "shift_tail_twice", "published_restart"})
"""Keys of schedulers here that no published class has."""


@cache
def annotations(cls: type) -> dict[str, Any]:  # Any: type forms, such as Literal[...] or Annotated[float, Ge(0)]
    """Config key -> the type and the limits of its value, in the order of declaration."""
    hints = get_type_hints(cls, include_extras=True)
    return {key: hint for key, hint in hints.items() if not key.startswith("_") and get_origin(hint) is not ClassVar}


@cache
def keys(cls: type) -> dict[str, Any]:  # Any: type forms, such as Literal[...] or float | None
    """Config key -> the type of its value, without limits."""
    hints = get_type_hints(cls)
    return {key: hints[key] for key in annotations(cls)}


def choices(hint: Any) -> tuple[str, ...]:  # Any: a type form
    """The names that a Literal key may take; () for another type."""
    return get_args(hint) if get_origin(hint) is Literal else ()


def takes_none(hint: Any) -> bool:  # Any: a type form
    """Whether None is a value of this key."""
    return type(None) in get_args(hint)


def coerced(scheduler: str, key: str, value: object, hint: Any) -> Any:  # Any: a value of the type that `hint` is
    """`value` as the key holds it (a list becomes a tuple, a numpy scalar a number). ConfigError if it does not fit."""
    if get_origin(hint) in (types.UnionType, Union):
        if value is None:
            return None
        (hint,) = (arm for arm in get_args(hint) if arm is not type(None))
    if get_origin(hint) is Annotated:
        hint, *limits = get_args(hint)
        if INFINITE in limits and isinstance(value, Real) and isinf(value):
            return float(value)
        return _limited(scheduler, key, coerced(scheduler, key, value, hint), limits)
    if hint is type(None):
        if value is None:
            return None
        raise ConfigError(f"{scheduler} takes no {key}, got {value_text(value)}. Leave it out.")
    if get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        names = did_you_mean(str(value)[:80], get_args(hint))
        raise ConfigError(f"{scheduler} has no {key} {value_text(value)}. {names}")
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's bool too; it is not a number here
        if hint is bool:
            return bool(value)
    elif hint is int and isinstance(value, Integral):
        if abs(number := int(value)) < _LARGEST:
            return number
    elif hint is float and isinstance(value, Real):
        if isfinite(value) and abs(number := float(value)) < _LARGEST:
            return number
    elif get_origin(hint) is tuple:
        listed = value.tolist() if hasattr(value, "tolist") else value  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(listed, Iterable) and not isinstance(listed, str | bytes | Mapping):
            listed = tuple(listed)
            _check_limit(scheduler, key, "training_steps", len(listed))
            item_hint = get_args(hint)[0]
            return tuple(coerced(scheduler, f"{key}[{i}]", item, item_hint) for i, item in enumerate(listed))
    needed = {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "a list of numbers")
    raise ConfigError(f"{scheduler} needs {needed} for {key}, got {value_text(value)}.")


def _limited(scheduler: str, key: str, value: Any, limits: Sequence[object]) -> Any:  # Any: a number
    least = next((limit.ge for limit in limits if isinstance(limit, Ge)), None)
    most = next((limit.le for limit in limits if isinstance(limit, Le)), None)
    above = next((limit.gt for limit in limits if isinstance(limit, Gt)), None)
    for tag in limits:
        if isinstance(tag, AtMost):
            _check_limit(scheduler, key, tag.name, value)
    if (least is None or value >= least) and (most is None or value <= most) and (above is None or value > above):
        return value
    room = (
        f"above {above}" if above is not None else f"of {least} or more" if most is None else f"from {least} to {most}"
    )
    raise ConfigError(f"{scheduler} needs {key} {room}, got {value}.")


def _check_limit(scheduler: str, key: str, name: str, found: int) -> None:
    try:
        check_limit(name, found)
    except AboveLimit as error:
        raise ConfigError(f"{scheduler}: {key} {error}") from None


def known(cls: type, config: Mapping[str, object]) -> dict[str, object]:
    """The keys of `config` that `cls` has. A key that no scheduler has gets a warning."""
    own = keys(cls)
    _check_limit(cls.__name__, "the config", "config_keys", len(config))
    kept: dict[str, object] = {}
    for key, value in config.items():
        if key in own:
            if value is not None or takes_none(own[key]):  # else null: published files write it for "not set"
                kept[key] = value
        elif not key.startswith("_") and key not in PUBLISHED_KEYS | OWN_KEYS:
            warnings.warn(
                f"{cls.__name__} ignores the config key {key!r}, which no published scheduler has. "
                f"{did_you_mean(key, own)}",
                UserWarning,
                stacklevel=3,
            )
    return kept


def others(config: Mapping[str, object], taken: Iterable[str]) -> dict[str, object]:
    """The keys of `config` that schedulers have, without those in `taken`. null means "not set"."""
    names = (PUBLISHED_KEYS | OWN_KEYS).difference(taken)
    return {key: value for key, value in config.items() if key in names and value is not None}


def to_config(scheduler: Any, more: Mapping[str, Any]) -> dict[str, Any]:  # Any: a dataclass; JSON values
    """Sorted keys and JSON values; those that the published class does not write only where they are not default.

    more: keys of other classes.
    """
    config: dict[str, Any] = {"_class_name": type(scheduler).__name__, **others(more, keys(type(scheduler)))}
    for item in fields(scheduler):
        value = getattr(scheduler, item.name)
        written = item.metadata.get("published", True) and item.name not in scheduler.unwritten
        if item.name in keys(type(scheduler)) and (written or value != item.default):
            config[item.name] = list(value) if isinstance(value, tuple) else value
    return dict(sorted(config.items()))


def write(folder: str | os.PathLike[str], config: dict[str, Any]) -> Path:  # Any: JSON values
    """Write `folder/scheduler_config.json`, whole or not at all, and return its path. SaveError if it cannot be."""
    path = Path(folder) / FILE
    write_json(path, config)
    return path


def read(folder: str | os.PathLike[str], subfolder: str | None = None) -> dict[str, Any]:  # Any: JSON values
    """The config in `folder/subfolder/scheduler_config.json`. LoadError if there is none that can be read."""
    return read_json(Path(folder, subfolder or "", FILE))
