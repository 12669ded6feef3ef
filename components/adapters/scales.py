"""The scale of a patch where its tensors do not say it: headers and configs of PEFT."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

Config = Mapping[str, Any]  # the content of a config.json of PEFT

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""The names by which PEFT's metadata tells components apart."""


@dataclass(frozen=True)
class Scales:
    """What a file says about scales beside its tensors.

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
        stated = _of_pattern(config.get("rank_pattern"), matrix, config.get("r"))
        r = stated if isinstance(stated, int) and stated > 0 else rank
        return float(alpha) / (math.sqrt(r) if config.get("use_rslora") else r)


def _of_pattern(patterns: object, matrix: str, default: Any) -> Any:  # a number of the config
    """The number of the first pattern that fits the end of a name, as PEFT matches them."""
    if isinstance(patterns, Mapping):
        for pattern, value in cast("Mapping[str, Any]", patterns).items():
            if matrix == pattern or matrix.endswith(f".{pattern}") or _fits(pattern, matrix):
                return value
    return default


def _fits(pattern: str, matrix: str) -> bool:
    if not re.search(r"[\\^$*+?()\[\]|]", pattern):
        return False
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", matrix) is not None
    except re.error:
        return False


def read_scales(header: Mapping[str, str], peft: Config | None = None) -> Scales:
    """Read what the header of a file and the `adapter_config.json` beside it say.

    Args:
        header: the text entries of a safetensors header.
        peft: the content of `adapter_config.json`.
    """
    configs: dict[str, dict[str, Any]] = {}
    if peft:
        configs[""] = dict(peft)
    stated: object = _json(header.get("lora_adapter_metadata", ""))
    if isinstance(stated, Mapping):
        for key, value in cast("Mapping[str, Any]", stated).items():
            head, dot, rest = key.partition(".")
            component, name = (head, rest) if dot and head in COMPONENTS else ("", key)
            configs.setdefault(component, {})[name] = value
    dim = header.get("ss_network_dim", "")
    return Scales(configs, int(dim) if dim.isascii() and dim.isdecimal() and len(dim) < 6 else None)


def _json(text: str) -> object:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
