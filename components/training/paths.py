"""Layers of a model by patterns of names, and modules by paths."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from ...graph.errors import ConfigError
from ...registry import did_you_mean

_ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
_JOINT = ("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out")
_CLIP = ("q_proj", "k_proj", "v_proj", "out_proj")
_T5 = ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o")
_DEFAULTS: Mapping[str, Sequence[str]] = {
    "UNet2DConditionModel": _ATTENTION,
    "PixArtTransformer2DModel": _ATTENTION,
    "SD3Transformer2DModel": (*_JOINT, *(f"attn.{name}" for name in _ATTENTION)),
    "FluxTransformer2DModel": (
        *(f"attn.{name}" for name in _ATTENTION), *_JOINT,
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
    ),
    "CLIPTextModel": _CLIP,
    "CLIPTextModelWithProjection": _CLIP,
    "T5EncoderModel": _T5,
}  # fmt: skip
"""The layers that diffusers' training scripts change, by the class of the model."""


def default_targets(class_name: str) -> Sequence[str]:
    """The names of the layers that adapters of a class change by default: those of diffusers' training scripts.

    Other classes have those of attention.
    """
    return _DEFAULTS.get(class_name, _ATTENTION)


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern is the path of a layer or its end. `*` stands for any text."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")


def matching(paths: Sequence[str], patterns: Sequence[str], component: str) -> list[str]:
    """The paths that match a pattern, in their own order.

    Raises:
        ConfigError: patterns that no path matches.
    """
    if lost := [pattern for pattern in patterns if not any(matches(path, pattern) for path in paths)]:
        near = did_you_mean(lost[0], dict.fromkeys(path.rpartition(".")[2] for path in paths))
        raise ConfigError(
            f"targets: no linear layer or convolution of {component} has the name {', '.join(map(repr, lost))}. {near}"
        )
    return [path for path in paths if any(matches(path, pattern) for pattern in patterns)]


def nested(modules: Mapping[str, nn.Module]) -> nn.Module:
    """A module tree with these modules at these paths, so that `state_dict` names them as the model does."""
    root = nn.Module()
    for path, module in modules.items():
        parent = root
        *above, name = path.split(".")
        for part in above:
            if (child := parent._modules.get(part)) is None:
                child = parent._modules[part] = nn.Module()
            parent = child
        parent._modules[name] = module
    return root


def names_text(names: Iterable[str]) -> str:
    """Names for an error; "none" without any."""
    return ", ".join(names) or "none"
