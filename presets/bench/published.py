"""Pipelines at their published size with random weights: nothing to download, and all the work of a real one."""

from collections.abc import Mapping
from typing import Any

from ...components.adapters.known_models import published_configs
from ...components.loading.single_file.checkpoint import facts_of, tokenizer_specs
from ...components.manager import ComponentsManager
from ...components.spec import ComponentSpec
from ...graph import ConfigError, Graph
from ...registry import did_you_mean
from ..load import load

_VAE: Mapping[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
_WIDE = {**_VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
_PUBLISHED: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "sd": ("sd1", "Stable Diffusion 1", _VAE),
    "sdxl": ("sdxl", "SDXL", _VAE),
    "sd3": ("sd3", "Stable Diffusion 3", _WIDE),
    "flux": ("flux", "Flux", _WIDE),
}
"""For each preset: the file of its family, the name of its models, and the keys of its autoencoder."""


def random_pipeline(name: str, manager: ComponentsManager) -> Graph:
    """The graph of a preset with models of the published sizes and random weights, which are made at the first use.

    Raises:
        ConfigError: a preset without a published size here.
    """
    if name not in _PUBLISHED:
        raise ConfigError(f"bench: has no published size of {name!r}. {did_you_mean(name, _PUBLISHED)}")
    family, models, vae = _PUBLISHED[name]
    facts, sizes = facts_of(family), published_configs(models)
    specs: dict[str, ComponentSpec] = dict(tokenizer_specs(facts))
    scheduler = facts["scheduler"]
    specs["scheduler"] = ComponentSpec(type_hint=("diffusers", str(scheduler["_class_name"])), config=scheduler)
    for component, model in facts["models"].items():
        config = {**model["config"], **(vae if component == "vae" else sizes[component])}
        config.pop("head_size", None)  # of the reader of single files: `sizes` has the number of heads
        specs[component] = ComponentSpec(type_hint=tuple(model["class"]), config=config)
    graph: Graph = load(name, manager=manager)
    handles = {component: manager.handle(spec, name=component) for component, spec in specs.items()}
    return graph.bind({component: handle for component, handle in handles.items() if component in graph.components})
