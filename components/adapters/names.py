"""The names by which files of adapters call the matrices of a model.

The table of a model is made from the names that are known already: ours, which are diffusers', and those of the model's
authors (`components.loading.single_file`). Trainers write them dotted, or flattened with underscores. A flattened name
is found by flattening the known names; it is never taken apart.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ...registry import models
from ..loading.single_file import latent_diffusion, transformers
from ..loading.single_file.tables import How, Row, table, ties
from ..storage.building import on_meta

Config = Mapping[str, Any]  # a config.json


@dataclass(frozen=True)
class Target:
    """A published matrix, and the layers of ours that hold its rows.

    layers: paths of modules. how: a further difference, see `tables.How`.
    """

    layers: tuple[str, ...]
    how: How = ""


@dataclass(frozen=True)
class ModelNames:
    """The matrices of one model, by every name that files call them.

    class_name: of the model. targets: by name. authors: the same by the authors' names alone. shapes: of our weights,
    by the path of the layer. biased: the layers that have a bias.
    """

    class_name: str
    targets: Mapping[str, Target]
    authors: Mapping[str, Target]
    shapes: Mapping[str, torch.Size]
    biased: frozenset[str]

    def source_shape(self, target: Target) -> torch.Size:
        """The shape of the published matrix, in the form in which our layers have it."""
        first = self.shapes[target.layers[0]]
        return torch.Size((sum(self.shapes[layer][0] for layer in target.layers), *first[1:])) if first else first


_XLABS = table(
    """
    transformer_blocks.{i}.attn.to_q + transformer_blocks.{i}.attn.to_k + transformer_blocks.{i}.attn.to_v  double_blocks.{i}.processor.qkv_lora1
    transformer_blocks.{i}.attn.add_q_proj + transformer_blocks.{i}.attn.add_k_proj + transformer_blocks.{i}.attn.add_v_proj  double_blocks.{i}.processor.qkv_lora2
    transformer_blocks.{i}.attn.to_out.0                   double_blocks.{i}.processor.proj_lora1
    transformer_blocks.{i}.attn.to_add_out                 double_blocks.{i}.processor.proj_lora2
    single_transformer_blocks.{i}.attn.to_q + single_transformer_blocks.{i}.attn.to_k + single_transformer_blocks.{i}.attn.to_v  single_blocks.{i}.processor.qkv
    single_transformer_blocks.{i}.proj_out                 single_blocks.{i}.processor.proj
    """,  # noqa: E501  a table
    64,
)
"""XLabs' names for Flux. Its `qkv` of a single block has only the first three quarters of the rows of `linear1`."""
_PIXART = """
    pos_embed.proj                                    x_embedder.proj
    adaln_single.linear                               t_block.1
    adaln_single.emb.timestep_embedder.linear_1       t_embedder.mlp.0
    adaln_single.emb.timestep_embedder.linear_2       t_embedder.mlp.2
    adaln_single.emb.resolution_embedder.linear_1     csize_embedder.mlp.0
    adaln_single.emb.resolution_embedder.linear_2     csize_embedder.mlp.2
    adaln_single.emb.aspect_ratio_embedder.linear_1   ar_embedder.mlp.0
    adaln_single.emb.aspect_ratio_embedder.linear_2   ar_embedder.mlp.2
    caption_projection.linear_1                       y_embedder.y_proj.fc1
    caption_projection.linear_2                       y_embedder.y_proj.fc2
    transformer_blocks.{i}.attn1.to_q + transformer_blocks.{i}.attn1.to_k + transformer_blocks.{i}.attn1.to_v  blocks.{i}.attn.qkv
    transformer_blocks.{i}.attn1.to_out.0             blocks.{i}.attn.proj
    transformer_blocks.{i}.attn2.to_q                 blocks.{i}.cross_attn.q_linear
    transformer_blocks.{i}.attn2.to_k + transformer_blocks.{i}.attn2.to_v  blocks.{i}.cross_attn.kv_linear
    transformer_blocks.{i}.attn2.to_out.0             blocks.{i}.cross_attn.proj
    transformer_blocks.{i}.ff.net.0.proj              blocks.{i}.mlp.fc1
    transformer_blocks.{i}.ff.net.2                   blocks.{i}.mlp.fc2
    proj_out                                          final_layer.linear
"""  # noqa: E501  a table


def _rows(class_name: str, config: Config) -> Sequence[Row]:
    """The tables of the authors' names for a class."""
    match class_name:
        case "UNet2DConditionModel":
            return latent_diffusion.unet(config)
        case "FluxTransformer2DModel":
            return transformers.flux(max(config["num_layers"], config["num_single_layers"]))
        case "SD3Transformer2DModel":
            return transformers.sd3(config["num_layers"])
        case "PixArtTransformer2DModel":
            return table(_PIXART, config["num_layers"])
        case "CLIPTextModel" | "CLIPTextModelWithProjection":
            return latent_diffusion.open_clip(config["num_hidden_layers"])
        case _:
            return ()


def names_of(class_name: str, config: Config) -> ModelNames:
    """The matrices of a model of this class and config, by every name that files call them. Loads no weights."""
    return _names_of(class_name, json.dumps(dict(config), sort_keys=True))


@lru_cache(maxsize=32)
def _names_of(class_name: str, config: str) -> ModelNames:
    settings = json.loads(config)
    with on_meta():
        model: Any = models[class_name].from_config(settings)  # one of ours
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    layers = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    biased = frozenset(name.removesuffix(".bias") for name in shapes if name.endswith(".bias"))
    targets: dict[str, Target] = {}
    doubtful: set[str] = set()
    authors = dict(_authors(shapes, _rows(class_name, model.to_config())))
    known = [*_own(layers), *authors.items()]
    if class_name == "FluxTransformer2DModel":
        known += [(row.theirs, Target(row.ours)) for row in _XLABS if set(row.ours) <= set(layers)]
    for name, target in known:
        for spelling in {name, name.replace(".", "_")}:
            if targets.setdefault(spelling, target) != target:
                doubtful.add(spelling)
    certain = {name: target for name, target in targets.items() if name not in doubtful}
    return ModelNames(class_name, certain, authors, layers, biased)


def _own(layers: Iterable[str]) -> Iterable[tuple[str, Target]]:
    """Our names; transformers 5 and some trainers leave out `text_model.`"""
    for layer in layers:
        yield layer, Target((layer,))
        if layer.startswith("text_model."):
            yield layer.removeprefix("text_model."), Target((layer,))


def _authors(shapes: Iterable[str], rows: Sequence[Row]) -> Iterable[tuple[str, Target]]:
    """The authors' names of matrices: of those that our model has all rows of."""
    for tie in ties(shapes, rows):
        if all(ours.endswith(".weight") for ours in tie.ours):
            theirs = re.sub(r"[._](weight|scale)$", "", tie.theirs)
            yield theirs, Target(tuple(ours.removesuffix(".weight") for ours in tie.ours), tie.how)


# --------------------------------------------------------------------------------------- prefixes of components
_DENOISER = (
    "unet.base_model.model.", "transformer.base_model.model.", "base_model.model.model.diffusion_model.",
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "unet.", "transformer.",
    "lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_", "",
)  # fmt: skip
_TOWERS: Mapping[str, tuple[str, ...]] = {
    "text_encoder": (
        "text_encoder.base_model.model.", "text_encoder.", "lora_te1_", "lora_te_", "text_encoders.clip_l.transformer.",
        "text_encoders.clip_h.transformer.", "base_model.model.", "",
    ),
    "text_encoder_2": (
        "text_encoder_2.base_model.model.", "text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer.",
    ),
    "text_encoder_3": (
        "text_encoder_3.base_model.model.", "text_encoder_3.", "lora_te3_", "text_encoders.t5xxl.transformer.",
    ),
}  # fmt: skip
DENOISERS = ("unet", "transformer")
ENCODERS = tuple(_TOWERS)


def readings(body: str) -> Iterable[tuple[str, str]]:
    """The ways to read a name of a file: the component that its prefix names, and the rest; the likeliest first.

    The component is "denoiser", or a text encoder. A text encoder's number differs between trainers, so it is only
    the first to be tried.
    """
    for component, prefixes in (("denoiser", _DENOISER), *_TOWERS.items()):
        for prefix in prefixes:
            if body.startswith(prefix):
                yield component, _modern(body.removeprefix(prefix))


_OLD = (
    (re.compile(r"\.processor\.to_"), ".to_"),
    (re.compile(r"\.to_out$"), ".to_out.0"),
    (re.compile(r"self_attn\.to_([qkv])$"), r"self_attn.\1_proj"),
    (re.compile(r"self_attn\.to_out\.0$"), "self_attn.out_proj"),
)
"""diffusers 0.18 to 0.22 named the layers of attention in these ways."""


def _modern(name: str) -> str:
    for pattern, replacement in _OLD:
        name = pattern.sub(replacement, name)
    return name


def states_component(body: str) -> str | None:
    """The component that a name's prefix names without doubt; None for a name without a prefix."""
    return next((component for component, prefixes in (*_TOWERS.items(), ("denoiser", _DENOISER))
                 for prefix in prefixes if prefix and body.startswith(prefix)), None)  # fmt: skip
