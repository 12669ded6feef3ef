"""`sf.load`: a pipeline from a preset name, a folder or a repo; `sf.load_component`: one part of it."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..components.loading.code.blocks import custom_block, load_graph
from ..components.loading.component import load_problems
from ..components.loading.index import CLASSIC, MODULAR, Index, read_index
from ..components.loading.single_file.checkpoint import component_of, index_of, open_checkpoint
from ..components.loading.specs import with_quantization, with_variant
from ..components.manager import ComponentsManager, Handle, default_manager
from ..components.memory.placement import Where, place_of
from ..components.quantization.config import read_quantization
from ..components.spec import ComponentSpec, class_of, dtype_name
from ..components.storage.files import CONFIGS
from ..components.storage.hub import Access
from ..components.storage.location import Folder, Location
from ..graph import ConfigError, Graph, LoadError
from ..graph.paths import blocks_inside
from ..registry import did_you_mean, models, native, schedulers
from ..registry import presets as families
from .family import Family
from .names import is_embedded
from .source import file_of, find_root

GRAPH = "graph.json"
_LOG = logging.getLogger("sfumato")  # what a command shows as notes; a program sees them if it wants to

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "emoji": {"guidance_scale": 4.0, "num_inference_steps": 25},  # its card: 15 to 30 steps, guidance 3 to 5
}


def load(
    x: str | Path,
    task: str = "text2image",
    *,
    graph: Graph | None = None,
    manager: ComponentsManager | None = None,
    device: Any = None,  # what torch.device takes
    device_map: Any = None,  # what torch.device takes, by component, or "balanced"
    dtype: Any = None,  # a torch.dtype or its name
    revision: str | None = None,
    variant: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    allow_pickle: bool = False,
    config: str | Path | None = None,
    quantization: Mapping[str, Any] | None = None,  # a Quantization, its JSON or a name, by component
    trust_remote_code: bool | str = False,
    **swaps: Any,
) -> Graph:
    """A pipeline: the graph of a task, bound to the components of a checkpoint. No weight is read until it runs.

    `x` is a preset name ("emoji"), a repo of the Hub ("owner/name"), or a folder: with `model_index.json` or
    `modular_model_index.json`, or one that `graph.save` wrote; or a single file of weights, here or in a repo
    ("owner/name/file.safetensors"). `graph` is used in place of the preset's own. Other keywords are components and
    slots, as in a call. A family's name ("sd") gives its graph with nothing bound. `task="auto"` takes the task anew in
    each call, from the names given (`image`, `mask_image`). A component that is None is left out where the family can
    do without it, as SD3 can without T5.

    A single file's family, layout and configs are told from its tensors. `config` is a folder or repo whose configs
    hold instead, and whose components stand where the file has none.

    `quantization` says for components how their weights are held: {"unet": "nf4"}. `device_map` says where they are,
    {"unet": "cuda:0", "vae": "cpu"}, modules by themselves too, {"unet": {"": "cuda:0", "up_blocks": "cuda:1"}}, or is
    "balanced": see `placed`. Others are on `device`, else on the manager's.

    Of a repo, configs are fetched now and weights at their first use: of the components that the graph has, in the
    `variant` ("fp16") that is asked for. `revision` is a branch, tag or commit, and all is taken at one commit.
    `subfolder` is where in `x` the index stands. For `token` and the other ways of reaching files see `Access`. A
    folder never leads to a download of what lies in it.

    A graph may bring the code of its blocks. Without `trust_remote_code` it is refused, and the error shows what would
    run. True trusts it from now on as it is, "sha256:…" exactly the code of that hash, and "isolated" runs it in a
    process of its own.

    Raises `LoadError` with every part that is wrong.
    """
    if isinstance(x, str) and x in families and not Path(x).is_dir():
        family: Family = families[x]
        made = family.make(task, swaps) if graph is None else graph
        return made.using(**swaps) if swaps else made
    access = Access(token, cache_dir and str(cache_dir), local_files_only, force_download, allow_pickle)
    embedded = is_embedded(x)
    manager = manager or default_manager()
    where = Where(device, device_map)
    if (file := None if embedded else file_of(x, revision, access)) is not None:
        beside = None if config is None else read_index(find_root(config, None, access))
        index = index_of(file, access, beside)
        _LOG.info("%s: %s", file.name, open_checkpoint(file, access).describe())
    else:
        root = find_root(x, revision, access)
        if config is not None:
            raise ConfigError("config= goes with a single file: a folder has its configs beside its weights.")
        if graph is None and GRAPH in root.names(subfolder):
            saved = saved_graph(
                root, subfolder, access, variant, manager, where, dtype, quantization, trust_remote_code
            )
            if saved.preset is not None and task not in ("text2image", saved.preset[1]):
                saved = saved.task(task)
            return saved.using(**swaps) if swaps else saved
        custom = custom_block(root, subfolder, trust_remote_code) if graph is None else None
        if custom is not None and not {CLASSIC, MODULAR} & root.names(subfolder):
            return custom.using(**swaps) if swaps else custom
        graph = custom if custom is not None else graph
        index = read_index(root, subfolder=subfolder)
    specs = {name: spec.with_access(access) for name, spec in index.loadable.items()}
    specs = with_quantization(specs, quantization)
    if graph is None:
        family = family_of(index)
        known = {**specs, **{name: value for name, value in swaps.items() if name in specs or value is not None}}
        try:
            graph = family.make(task, known, **index.config)
        except (LoadError, ConfigError) as error:
            raise _with_all_problems(error, index, family, task, swaps) from error
        if not embedded:  # that one was asked for by its name
            _LOG.info("%s: %s, by its pipeline class %s", x, "/".join(graph.preset or ()), index.class_name)
        if defaults := _DEFAULTS.get(str(x)) if embedded else None:
            graph = _with_defaults(graph, defaults)
    # A name or a config says how to change what the checkpoint has, so that must be bound; an object replaces it.
    replaced = {name for name, value in swaps.items() if not isinstance(value, str | Mapping)}
    held = {name: spec for name, spec in specs.items() if name in graph.components and name not in replaced}
    held = with_variant(held, variant)
    if graph.preset is not None and variant is None:
        needed = families[graph.preset[0]].needed(specs.keys() - graph.components.keys())
        spare = {name: manager.handle(specs[name], device=device, dtype=dtype, name=name) for name in needed}
        graph = graph.with_bindings({**graph.bindings, **spare})
    given = {name: value for name, value in swaps.items() if isinstance(value, ComponentSpec)}
    handles = where.handles({**held, **given}, manager, dtype, {**specs, **given})
    graph = graph.bind({name: handles[name] for name in held if name not in given})
    left_out = {name for name in specs if name not in graph.components and swaps.get(name, name) is None}
    swaps = {name: handles[name] if name in given else v for name, v in swaps.items() if name not in left_out}
    return graph.using(**swaps) if swaps else graph


def family_of(index: Index) -> Family:
    """The family whose checkpoints name this index's pipeline class, or the class of its blocks."""
    found: dict[str, Family] = {}
    refused: dict[str, str] = {}
    for name in families:
        family: Family = families[name]
        found.update(dict.fromkeys(family.classes, family))
        refused.update(family.refuses)
    for name in _class_names(index):
        if name in found:
            return found[name]
    named = str(next(iter(_class_names(index)), None))
    why = f"{refused[named]}." if named in refused else did_you_mean(named, found)
    raise LoadError(
        f"{index.path}: its index names the pipeline {named!r}, which no preset family is for. {why} "
        "Or give a graph of your own: sf.load(folder, graph=…)."
    )


def _class_names(index: Index) -> Iterator[str]:
    """The classes by which an index may be known. Modular files have a plain pipeline and say more by their blocks."""
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
    """Everything that is wrong with the components that the task needs, where one is enough to stop it."""
    needed = {name for name, part in family.make(task, {}).components.items() if part.required}
    lines = [f"{name}: the index has none." for name in sorted(needed - index.loadable.keys() - swaps.keys())]
    for name, spec in index.loadable.items():
        if name in needed and name not in swaps:
            lines += [f"{name}: {text}" for text in load_problems(spec)]
    if len(lines) < 2:
        return LoadError(str(error))
    return LoadError("\n  ".join([f"{index.path}: ({len(lines)} problems)", *lines]))


def _with_defaults(graph: Graph, defaults: Mapping[str, Any]) -> Graph:
    """The graph with other defaults of its knobs, wherever they are."""
    for path, block in blocks_inside(graph):
        changed = {name: value for name, value in defaults.items() if name in block.config()}
        if changed:
            graph = graph.replace(".".join(path), type(block)(**{**block.config(), **changed}))
    return graph


def saved_graph(
    root: Location,
    subfolder: str = "",
    access: Access | None = None,
    variant: str | None = None,
    manager: ComponentsManager | None = None,
    where: Where | None = None,
    dtype: Any = None,
    quantization: Mapping[str, Any] | None = None,
    trust_remote_code: bool | str = False,
) -> Graph:  # Any as in load
    """A graph that was saved, held by the manager that was asked for."""
    saved = load_graph(root, subfolder, trust_remote_code)
    specs = {name: value.spec for name, value in saved.bindings.items() if isinstance(value, Handle)}
    specs = {name: at(root, spec).with_access(access or Access()) for name, spec in specs.items()}
    specs = with_variant(with_quantization(specs, quantization), variant)
    handles = (where or Where(None, None)).handles(specs, manager or default_manager(), dtype, specs)
    return saved.with_bindings({**saved.bindings, **handles})


def load_component(
    x: str | Path,
    class_name: str | None = None,
    *,
    manager: ComponentsManager | None = None,
    device: Any = None,  # what torch.device takes
    dtype: Any = None,  # a torch.dtype or its name
    subfolder: str = "",
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    allow_pickle: bool = False,
    config: Mapping[str, Any] | None = None,
    quantization: Any = None,  # a Quantization, its JSON or a name
    device_map: Any = None,  # devices by module path, or "balanced"
) -> Any:  # an object of that class
    """One component: from its folder, from a repo and its `subfolder`, or from a single file of weights. In a whole
    pipeline (a preset's name, a folder or repo with an index) it is the one of that class.

    `class_name` is a published name ("AutoencoderKL"); None takes what the component's own config says. `config` has
    keys that hold in place of those of its config, `quantization` says how its weights are held. `device_map` has its
    modules on several devices, by their paths, {"": "cuda:0", "up_blocks": "cuda:1"}, or "balanced". The object belongs
    to `manager`, which gives it again for equal arguments. Raises `LoadError`.
    """
    access = Access(token, cache_dir and str(cache_dir), local_files_only, force_download, allow_pickle)
    hint = None if class_name is None else _hint(class_name)
    if (file := file_of(x, revision, access)) is not None:
        spec = component_of(file, access, hint, subfolder)
    else:
        root = find_root(x, revision, access)
        spec = _member(root, hint, access) if not subfolder and is_pipeline(root) else alone(root, subfolder, hint)
        spec = spec.using(variant=variant or spec.variant).with_access(access)
    if config is not None:
        spec = spec.using(config={**spec.read_config(), **config})
    if quantization is not None:
        spec = spec.using(quantization=read_quantization(quantization))
    manager = manager or default_manager()
    spec = spec if dtype is None else spec.using(dtype=dtype_name(dtype))
    return manager.handle(spec, device=place_of(device_map, spec, manager.dtype) or device).load()


def is_pipeline(root: Location, subfolder: str = "") -> bool:
    """Whether there is an index, and no component beside it."""
    names = root.names(subfolder)
    return not names.isdisjoint((CLASSIC, MODULAR)) and names.isdisjoint(CONFIGS)


def alone(root: Location, subfolder: str = "", hint: tuple[str, str] | None = None) -> ComponentSpec:
    """The component whose files lie here, of this class or of what its config says."""
    return ComponentSpec(
        type_hint=hint or ("diffusers", "AutoModel"),
        pretrained_model_name_or_path=root.source,
        subfolder=subfolder,
        revision=root.revision,
    )


def _member(root: Location, hint: tuple[str, str] | None, access: Access) -> ComponentSpec:
    """The one component of a class in a whole pipeline. LoadError where there is none, or several."""
    index = read_index(root)
    specs = {name: spec.with_access(access) for name, spec in index.loadable.items()}
    classes = {name: spec.type_hint[1] if spec.type_hint else "unknown" for name, spec in specs.items()}
    wanted = None if hint is None else class_of(hint)
    found = [name for name, spec in specs.items() if wanted is not None and _type(spec) is wanted]
    if len(found) == 1:
        return specs[found[0]]
    there = ", ".join(f"{name} ({kind})" for name, kind in classes.items())
    if hint is None:
        raise LoadError(f"{index.path}: is a whole pipeline. Say which: subfolder='unet', or a class. It has: {there}.")
    some = f"has {len(found)} of the class {hint[1]}" if found else f"has no {hint[1]}"
    way_out = f"Say which: subfolder={found[0]!r}. " if found else ""
    raise LoadError(f"{index.path}: {some}. {way_out}It has: {there}.")


def _type(spec: ComponentSpec) -> Any:  # a class of any library
    try:
        return spec.type
    except LoadError:
        return None


def _hint(class_name: str) -> tuple[str, str]:
    library = "transformers" if ("transformers", class_name) in native else "diffusers"
    if library == "diffusers" and class_name not in {*models, *schedulers}:
        raise LoadError(f"No class {class_name!r} is here. {did_you_mean(class_name, [*models, *schedulers])}")
    return library, class_name


def at(root: Location, spec: ComponentSpec) -> ComponentSpec:
    """A component beside a graph file of a repo: in that repo, for the copy here has only what was asked for."""
    home = Path(spec.pretrained_model_name_or_path or "")
    if isinstance(root, Folder) or not home.is_relative_to(here := root.local("", ())):
        return spec
    inside = str(PurePosixPath(*home.relative_to(here).parts, spec.subfolder))
    return spec.using(pretrained_model_name_or_path=root.source, revision=root.revision, subfolder=inside)
