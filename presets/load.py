"""`sf.load`: a pipeline from a preset name, a folder, a repo or a file; `sf.load_component`: one part of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..components.loading.code.blocks import custom_block
from ..components.loading.single_file.checkpoint import component_of
from ..components.loading.specs import with_quantization
from ..components.manager import ComponentsManager, default_manager
from ..components.memory.placement import Placement, assign_device
from ..components.quantization.config import read_quantization
from ..components.spec import ComponentSpec, dtype_name
from ..components.storage.hub import Access
from ..graph import ConfigError, Graph
from ..graph.files.faults import reads_files
from ..registry import presets as families
from .component import hint_for
from .family import Family
from .keywords import checked_keywords, keywords_of, naming_near_keywords
from .lookup import component_at, index_at, with_paths
from .pipeline import ComponentSettings, assemble, check_quantized, family_of
from .saved import saved_graph
from .source import (
    CodeBlocks,
    FamilyName,
    PipelineFolder,
    SavedGraph,
    SingleFile,
    checked_access,
    locate,
)


@reads_files
def load(
    x: str | Path,
    task: str = "text2image",
    *,
    graph: Graph | None = None,
    manager: ComponentsManager | None = None,
    device: Any = None,  # what torch.device takes
    device_map: Any = None,  # what torch.device takes, by component, or "balanced"
    dtype: Any = None,  # a torch.dtype or its name, or one for each component
    revision: str | None = None,
    variant: str | None = None,
    subfolder: str = "",
    access: Access | None = None,
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
    """The graph of a task, bound to the components of a checkpoint. Weights are read at the first run.

    The index and the configs of a repo are fetched now, all from one commit. Weights are fetched at their first use,
    and only those of components that the graph has. A local folder never causes a download of its own files.

    Args:
        x: a preset name ("emoji"); a family name ("sd"), which gives a graph with nothing bound; a repo of the Hub
            ("owner/name"); a folder with `model_index.json` or `modular_model_index.json`, or one that `graph.save`
            wrote; or a single file of weights, on this machine or in a repo ("owner/name/file.safetensors").
        task: a task of the family; "auto" chooses it anew for each call by the names passed (`image`, `mask_image`).
        graph: a graph to use in place of the family's.
        manager: who holds the components; by default the one of this process.
        device: the device of all components; by default the manager's.
        device_map: a device for each component, {"unet": "cuda:0", "vae": "cpu"}; a component may have a map of its
            module paths, {"unet": {"": "cuda:0", "up_blocks": "cuda:1"}}; or "balanced".
        dtype: the dtype of the weights, for all or for each component, {"unet": "float16", "default": "bfloat16"}; by
            default the manager's.
        revision: a branch, tag or commit of the repo.
        variant: a variant of the weight files ("fp16"). A component without such files is taken as it is.
        subfolder: the folder in `x` that has the index.
        access: how files may be fetched and read. `token`, `cache_dir`, `local_files_only`, `force_download` and
            `allow_pickle` are its fields, for those who do not pass it.
        config: for a single file: a folder or repo whose configs replace those derived from the tensors, and whose
            components are taken where the file has none.
        quantization: how the weights of components are held, {"unet": "nf4"}.
        trust_remote_code: whether code of the repo may run. False refuses it, and the error shows the code. True trusts
            it as it is now, "sha256:…" exactly the code of that hash, and "isolated" runs it in its own process.
        swaps: components and slots, as in a call. A component may also be the path of its folder or file
            (vae="vae.safetensors"), whose config keys that its tensors do not show are those of the checkpoint. None
            leaves a component out if the family allows it (SD3's T5). decoder="tiny" decodes with the published tiny
            autoencoder of the latent space, and encodes with `vae`.

    Raises:
        LoadError: what is wrong with the checkpoint, all parts at once.
        ConfigError: settings that do not fit.
    """
    access = checked_access(
        access, token, cache_dir, local_files_only, force_download, allow_pickle,
        graph=(graph, Graph), manager=(manager, ComponentsManager), revision=(revision, str), variant=(variant, str),
        subfolder=(subfolder, str),
    )  # fmt: skip
    settings = ComponentSettings(
        manager or default_manager(), Placement(device, device_map), dtype, variant, quantization
    )
    check_quantized(settings.quantization, swaps)
    source = locate(x, revision=revision, subfolder=subfolder, access=access)
    if config is not None and not isinstance(source, SingleFile):
        raise ConfigError("config= goes with a single file: a folder has its configs beside its weights.")
    match source:
        case FamilyName(name):
            family: Family = families[name]
            swaps = with_paths(swaps, lambda: graph or family.make(task, {}), {}, source, access)
            made = family.make(task, swaps) if graph is None else graph
        case SavedGraph(location, folder) if graph is None:
            made = saved_graph(location, folder, access, settings, trust_remote_code)
            if made.preset is not None and task not in ("text2image", made.preset[1]):
                made = made.task(task)
        case CodeBlocks(location, folder) if graph is None:
            made = custom_block(location, folder, trust_remote_code)
            assert made is not None  # a `modular_config.json` without an index names a block, or is refused
        case _:
            if graph is None and isinstance(source, PipelineFolder):  # its index may have code beside it
                graph = custom_block(source.location, source.subfolder, trust_remote_code)
            index = index_at(source, access, config)
            specs = {name: spec.with_access(access) for name, spec in index.loadable.items()}
            swaps = with_paths(swaps, lambda: graph or family_of(index).make(task, {}), specs, source, access)
            with naming_near_keywords("sf.load", keywords_of(load)):
                return assemble(source, index, specs, graph, task, settings, swaps, title=str(x))
    swaps = with_paths(swaps, lambda: made, made.bindings, source, access)
    if passed := {name: value for name, value in swaps.items() if isinstance(value, ComponentSpec)}:
        passed = with_quantization(passed, {n: kind for n, kind in (quantization or {}).items() if n in passed})
        swaps |= settings.placement.handles(passed, settings.manager, settings.dtype, made.components)
    with naming_near_keywords("sf.load", keywords_of(load)):
        return made.using(**swaps) if swaps else made


@reads_files
@checked_keywords
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
    access: Access | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    allow_pickle: bool = False,
    config: Mapping[str, Any] | None = None,
    quantization: Any = None,  # a Quantization, its JSON or a name
    device_map: Any = None,  # devices by module path, or "balanced"
) -> Any:  # an object of that class
    """Load one component now. The manager gives the same object again for equal arguments.

    Args:
        x: the component's folder, a repo, a single file of weights, or a whole pipeline or saved graph, of which the
            one component of the class is taken.
        class_name: a published class ("AutoencoderKL"); None takes the one that the component's config names.
        manager: who holds it; by default the one of this process.
        device: its device; by default the manager's.
        dtype: the dtype of its weights; by default the manager's.
        subfolder: its folder in `x`, or the name of a part of a single file.
        revision: a branch, tag or commit of the repo.
        variant: a variant of the weight files ("fp16").
        access: how files may be fetched and read; see `load`.
        config: keys that replace those of its config.
        quantization: how its weights are held ("nf4").
        device_map: devices by module path, {"": "cuda:0", "up_blocks": "cuda:1"}, or "balanced".

    Raises:
        LoadError: no such component, several that fit, or files that cannot be read.
    """
    access = checked_access(
        access, token, cache_dir, local_files_only, force_download, allow_pickle,
        class_name=(class_name, str), manager=(manager, ComponentsManager), revision=(revision, str),
        variant=(variant, str), subfolder=(subfolder, str),
    )  # fmt: skip
    hint = None if class_name is None else hint_for(class_name)
    source = locate(x, revision=revision, subfolder=subfolder, access=access)
    if isinstance(source, SingleFile):
        spec = component_of(source.file, access, hint, subfolder)
    else:
        spec = component_at(source, hint, access)
        spec = spec.using(variant=variant or spec.variant).with_access(access)
    if config is not None:
        spec = spec.using(config={**spec.read_config(), **config})
    if quantization is not None:
        spec = spec.using(quantization=read_quantization(quantization))
    manager = manager or default_manager()
    spec = spec if dtype is None else spec.using(dtype=dtype_name(dtype))
    return manager.handle(spec, device=assign_device(device_map, spec, manager.dtype) or device).load()
