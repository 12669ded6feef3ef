"""Scales that the tensors of a patch do not state: headers and configs of PEFT."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, cast

from ...graph import json_text
from ...graph.errors import LoadError

Config = Mapping[str, Any]  # the content of a config.json of PEFT

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""The names by which PEFT's metadata tells components apart."""


@dataclass(frozen=True)
class Scales:
    """The scales that a file states beside its tensors.

    peft: the config of PEFT by component; "" is that of a folder with one adapter. network_dim: `ss_network_dim` of
    kohya's header; None without one.
    """

    peft: Mapping[str, Config] = field(default_factory=dict[str, Config])
    network_dim: int | None = None

    def config(self, component: str) -> Config:
        """The config of PEFT for a component; {} without one."""
        return self.peft.get(component) or self.peft.get("") or {}

    def scale(self, component: str, matrix: str, rank: int) -> float | None:
        """The scale by the config of PEFT: alpha / r, or alpha / sqrt(r) with `use_rslora`; None without a config.

        matrix: its name without the prefix of the component, for `rank_pattern` and `alpha_pattern`.
        """
        config = self.config(component)
        alpha = config.get("lora_alpha", config.get("alpha"))
        if alpha is None:
            return None
        alpha = _of_pattern(config.get("alpha_pattern"), matrix, alpha)
        r = _of_pattern(config.get("rank_pattern"), matrix, config.get("r")) or rank
        r = _number("r", r)
        return _number("lora_alpha", alpha) / (math.sqrt(r) if config.get("use_rslora") and r > 0 else r)

    def number(self, component: str, key: str, default: float) -> float:
        """A number of the config of PEFT. LoadError for anything else."""
        return _number(key, self.config(component).get(key, default))


def _of_pattern(patterns: object, matrix: str, default: Any) -> Any:  # a number of the config
    """The number of the first pattern that fits the end of a name."""
    if isinstance(patterns, Mapping):
        for pattern, value in cast("Mapping[str, Any]", patterns).items():
            if fnmatchcase(matrix, _wildcards(pattern)) or fnmatchcase(matrix, f"*.{_wildcards(pattern)}"):
                return _number(pattern, value)
    return default


def _wildcards(pattern: str) -> str:
    """A pattern of PEFT with `*` in place of `.*`.

    PEFT takes patterns as regular expressions. A file from strangers could name one that runs for years, so only names
    with `^`, `$`, `.*` and escaped dots are read.

    Raises:
        LoadError: another regular expression.
    """
    plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".").replace(".*", "*")
    if not re.fullmatch(r"[\w.*-]*", plain):
        raise LoadError(
            f"rank_pattern or alpha_pattern has {pattern!r}. Only names with ^, $, .* and escaped dots are read. "
            "Save the adapter with .alpha tensors, or pass scale=."
        )
    return plain


def _number(key: str, value: Any) -> float:  # an entry of the config
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LoadError(f"The config of the adapter needs a finite number at {key!r}. Got {value!r}.")
    return float(value)


def read_scales(header: Mapping[str, str], peft: Config | None = None) -> Scales:
    """Read the scales in the header of a file and in the `adapter_config.json` beside it.

    Args:
        header: the text entries of a safetensors header.
        peft: the content of `adapter_config.json`.

    Raises:
        LoadError: an entry `lora_adapter_metadata` that is not JSON.
    """
    configs: dict[str, dict[str, Any]] = {}
    if peft:
        configs[""] = dict(peft)
    if text := header.get("lora_adapter_metadata"):
        try:
            stated: object = json_text.parse(text)
        except json_text.JsonTextError as error:
            raise LoadError(f"The header entry lora_adapter_metadata {error}") from None
        if isinstance(stated, Mapping):
            for key, value in cast("Mapping[str, Any]", stated).items():
                head, dot, rest = key.partition(".")
                component, name = (head, rest) if dot and head in COMPONENTS else ("", key)
                configs.setdefault(component, {})[name] = value
    dim = header.get("ss_network_dim", "")
    return Scales(configs, (int(dim) or None) if dim.isascii() and dim.isdecimal() and len(dim) < 6 else None)
