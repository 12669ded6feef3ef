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


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern is the path of a layer or its end. `*` stands for any text."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")


def target_layers(
    paths: Sequence[str], patterns: Sequence[str] | None, component: str, class_name: str
) -> Sequence[str]:
    """The layers that an adapter changes, in the order of the model.

    Args:
        paths: of all layers that it may change.
        patterns: names of layers, their ends, or patterns with `*`; None for the layers of diffusers' training
            scripts, which are those of attention for other classes.
        component: the name of the model.
        class_name: of the model.

    Raises:
        ConfigError: patterns that no path matches, or a model without any of the default layers.
    """
    chosen = _DEFAULTS.get(class_name, _ATTENTION) if patterns is None else patterns
    lost = [pattern for pattern in chosen if not any(matches(path, pattern) for path in paths)]
    if (lost and patterns is not None) or len(lost) == len(chosen):
        near = did_you_mean(lost[0] if lost else "", dict.fromkeys(path.rpartition(".")[2] for path in paths))
        raise ConfigError(
            f"targets: no linear layer or convolution of {component} has the name {names_text(map(repr, lost))}. {near}"
        )
    return [path for path in paths if any(matches(path, pattern) for pattern in chosen)]


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
