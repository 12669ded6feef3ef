"""A pipeline from an index: the graph of a task, and the index's components bound to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..components.loading.component import load_problems
from ..components.loading.index import Index
from ..components.loading.specs import with_quantization, with_variant
from ..components.manager import ComponentsManager
from ..components.memory.placement import Placement, with_dtypes
from ..components.spec import ComponentSpec
from ..graph import ConfigError, Graph, LoadError
from ..graph.paths import blocks_inside
from ..registry import did_you_mean
from ..registry import presets as families
from ..registry.log import LOG
from .family import Family
from .source import EmbeddedPreset, Source
from .tasks import with_perturbed_attention

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "emoji": {"guidance_scale": 4.0, "num_inference_steps": 25},  # its model card: 15 to 30 steps, guidance 3 to 5
}
"""Knobs of presets whose model likes other values than the family's."""


@dataclass(frozen=True)
class ComponentSettings:
    """The settings with which the components of a pipeline are loaded.

    Args:
        manager: who loads them and makes their handles.
        placement: the device of all, or of each.
        dtype: a torch.dtype or its name, or one for each component; None for the manager's.
        variant: the variant of weight files ("fp16").
        quantization: the quantization of each component, by name.
    """

    manager: ComponentsManager
    placement: Placement
    dtype: Any = None
    variant: str | None = None
    quantization: Mapping[str, Any] | None = None


def check_quantized(kinds: object, swaps: Mapping[str, Any]) -> None:  # Any: what a user passed
    """ConfigError for a quantization of a component that is passed as an object or a handle."""
    for name in cast("Mapping[str, Any]", kinds) if isinstance(kinds, Mapping) else ():
        value = swaps.get(name)
        if value is not None and not isinstance(value, str | Path | Mapping | ComponentSpec):
            raise ConfigError(
                f"quantization: {name} is passed as a {type(value).__name__}, and only weights in files are "
                f"quantized. Pass the path of its folder: {name}='folder'."
            )


def assemble(
    source: Source,
    index: Index,
    specs: Mapping[str, ComponentSpec],
    graph: Graph | None,
    task: str,
    settings: ComponentSettings,
    swaps: Mapping[str, Any],
    title: str,
) -> Graph:
    """The graph of a task, or the one that was passed, with the components of an index bound and `swaps` applied.

    Args:
        source: where the index is from. An embedded preset has defaults of its own.
        specs: the index's components, as they may be reached.
        title: what the user passed, for the log.

    Raises:
        LoadError: an index of an unknown family, and all faults of the components that the task needs.
    """
    specs = _with_config_defaults(index, specs)
    passed = {name: value for name, value in swaps.items() if isinstance(value, ComponentSpec)}
    quantized = with_quantization({**specs, **passed}, settings.quantization)
    specs = {name: spec if name in passed else quantized[name] for name, spec in specs.items()}
    passed = {name: quantized[name] for name in passed}
    if graph is None:
        graph = _graph_for(source, index, specs, task, swaps, title)
    # A name or a config changes the checkpoint's component, which must be bound for that; an object replaces it.
    replaced = {name for name, value in swaps.items() if not isinstance(value, str | Mapping)}
    used = {name: spec for name, spec in specs.items() if name in graph.components and name not in replaced}
    used = with_variant(used, settings.variant)
    if graph.preset is not None and settings.variant is None:
        graph = graph.with_bindings({**graph.bindings, **_for_other_tasks(graph, specs, settings)})
    handles = settings.placement.handles({**used, **passed}, settings.manager, settings.dtype, {**specs, **passed})
    graph = graph.bind({name: handles[name] for name in used if name not in passed})
    left_out = {name for name in specs if name not in graph.components and swaps.get(name, name) is None}
    swaps = {name: handles.get(name, value) if name in passed else value
             for name, value in swaps.items() if name not in left_out}  # fmt: skip
    return graph.using(**swaps) if swaps else graph


def family_of(index: Index) -> Family:
    """The family whose checkpoints name the index's pipeline class, or the class of its blocks. LoadError if none."""
    if (found := _known_family(index)) is not None:
        return found
    refused = {name: why for family in _families() for name, why in family.refuses.items()}
    by_class = [name for family in _families() for name in family.loaded_classes]
    named = str(next(iter(_class_names(index)), None))
    why = f"{refused[named]}." if named in refused else did_you_mean(named, by_class)
    raise LoadError(
        f"{index.path}: its index names the pipeline {named!r}, which no preset family is for. {why} "
        "Or pass a graph of your own: sf.load(folder, graph=…)."
    )


def _families() -> list[Family]:
    return [families[name] for name in families]


def _known_family(index: Index) -> Family | None:
    by_class = {name: family for family in _families() for name in family.loaded_classes}
    return next((by_class[name] for name in _class_names(index) if name in by_class), None)


def _with_config_defaults(index: Index, specs: Mapping[str, ComponentSpec]) -> Mapping[str, ComponentSpec]:
    """The specs, with the config keys that all models of the family have and that these configs lack."""
    family, changed = _known_family(index), dict[str, ComponentSpec]()
    for name, defaults in (family.config_defaults if family is not None else {}).items():
        if name not in specs:
            continue
        try:
            config = specs[name].read_config()
        except LoadError:
            continue  # it is reported with all other problems of the checkpoint
        if not defaults.keys() <= config.keys():
            changed[name] = specs[name].using(config={**defaults, **config})
    return {**specs, **changed}


def _graph_for(
    source: Source, index: Index, specs: Mapping[str, ComponentSpec], task: str, swaps: Mapping[str, Any], title: str
) -> Graph:
    """The graph of a task, with sizes and channels by the configs of these components."""
    family = family_of(index)
    if (only := family.part_classes.get(index.class_name or "", task)) != task:
        raise LoadError(
            f"{index.path}: a {index.class_name} has no denoiser. It serves the task {only!r}, got {task!r}. "
            f"Pass its components to a checkpoint of {family.name}: "
            f"sf.load(checkpoint, {only!r}, **sf.load({title!r}, {only!r}).bindings)."
        )
    for text in family.unknown_keys(index.config).values():
        LOG.info("%s: %s The key is ignored.", index.path, text)
    known = {**specs, **{name: value for name, value in swaps.items() if name in specs or value is not None}}
    try:
        graph = family.make(task, known, **known_keys(family, index))
        if index.class_name in family.pag_classes:
            graph = with_perturbed_attention(graph, known)
    except (LoadError, ConfigError) as error:
        raise _with_all_problems(error, index, family, task, swaps) from error
    if isinstance(source, EmbeddedPreset):
        return _with_defaults(graph, _DEFAULTS.get(source.name, {}))
    LOG.info("%s: %s, by its pipeline class %s", title, "/".join(graph.preset or ()), index.class_name)
    return graph


def known_keys(family: Family, index: Index) -> dict[str, Any]:  # Any: JSON values
    """The plain keys of an index without those that the family does not know."""
    unknown = family.unknown_keys(index.config)
    return {key: value for key, value in index.config.items() if key not in unknown}


def _for_other_tasks(graph: Graph, specs: Mapping[str, ComponentSpec], settings: ComponentSettings) -> dict[str, Any]:
    """Handles of the components that only other tasks of the graph's family use."""
    assert graph.preset is not None
    names = families[graph.preset[0]].needed(specs.keys() - graph.components.keys())
    others = with_dtypes({name: specs[name] for name in names}, settings.dtype, specs)
    device = settings.placement.device
    return {name: settings.manager.handle(spec, device=device, name=name) for name, spec in others.items()}


def _class_names(index: Index) -> Iterator[str]:
    """The classes that tell the family. Modular files have a plain pipeline class, and their blocks say more."""
    if index.class_name not in (None, "ModularPipeline"):
        yield index.class_name
    if index.blocks_class_name:
        yield index.blocks_class_name
        # Published as pairs: StableDiffusionXLAutoBlocks belong to a StableDiffusionXLModularPipeline.
        yield f"{index.blocks_class_name.removesuffix('Blocks').removesuffix('Auto')}ModularPipeline"
    if index.class_name:
        yield index.class_name


def _with_all_problems(
    error: Exception, index: Index, family: Family, task: str, swaps: Mapping[str, Any]
) -> LoadError:
    """One error with all faults of the components that the task needs, in place of the first one."""
    needed = {name for name, part in family.make(task, {}).components.items() if part.required}
    lines = [f"{name}: the index has none." for name in sorted(needed - index.loadable.keys() - swaps.keys())]
    for name, spec in index.loadable.items():
        if name in needed and name not in swaps:
            lines += [f"{name}: {text}" for text in load_problems(spec)]
    if len(lines) < 2:
        return LoadError(str(error))
    return LoadError("\n  ".join([f"{index.path}: ({len(lines)} problems)", *lines]))


def _with_defaults(graph: Graph, defaults: Mapping[str, Any]) -> Graph:
    """The graph with other defaults of its knobs, in every block that has them."""
    for path, block in blocks_inside(graph):
        changed = {name: value for name, value in defaults.items() if name in block.config()}
        if changed:
            graph = graph.replace(".".join(path), type(block)(**{**block.config(), **changed}))
    return graph
