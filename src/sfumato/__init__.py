"""Typed blocks that wire themselves into diffusion pipelines.

`import sfumato` imports nothing else. A public name imports its module when it is read.
"""

# The sorter would write three lines for each public name.
# isort: skip_file
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocks import guiders as guiders
    from .blocks import prompts as prompts
    from .components import attention as attention
    from .components import caches as caches
    from .components import engines as engines
    from .components import models as models
    from .components import parallel as parallel
    from .components import schedulers as schedulers
    from .components import taps as taps
    from .components.adapters.adapter import Adapter as Adapter
    from .components.adapters.embedding import Embedding as Embedding
    from .components.manager import ComponentsManager as ComponentsManager
    from .components.saved_values import load_values as load_values
    from .components.saved_values import save_values as save_values
    from .components import remote as remote
    from .components.remote.autoencoder import RemoteAutoencoder as RemoteAutoencoder
    from .components.spec import ComponentSpec as ComponentSpec
    from .components.storage.hub import Access as Access
    from .graph import events as events
    from .graph import (
        Block as Block, BlockFailed as BlockFailed, BrokenBlock as BrokenBlock, Cancelled as Cancelled, Cell as Cell,
        ConfigError as ConfigError, Edge as Edge, Event as Event, Graph as Graph, GraphError as GraphError,
        GraphFileError as GraphFileError, InputError as InputError, LatentSpace as LatentSpace, LoadError as LoadError,
        Loop as Loop, Malformed as Malformed, Map as Map, Memory as Memory, NotFinite as NotFinite, Outputs as Outputs,
        Paused as Paused, PictureError as PictureError, Port as Port, Problem as Problem,
        ProcessFailed as ProcessFailed, RemoteError as RemoteError, Run as Run, Running as Running,
        RunState as RunState,
        SaveError as SaveError, SfumatoError as SfumatoError, Switch as Switch, Unbound as Unbound, UnfitValue as UnfitValue, WireError as WireError,
        assignable as assignable, component as component, debug as debug, gradients as gradients, knob as knob,
        named as named,
    )  # fmt: skip
    from .graph.memo import memo as memo
    from .graph.sweep import Sweep as Sweep
    from .graph.together import RunGroup as RunGroup
    from .graph.together import together as together
    from .presets import adapters as adapters
    from .presets.batch.batch import Batch as Batch
    from .presets.batch.batch import batch as batch
    from .presets.batch.manifest import BatchRow as BatchRow
    from .presets.batch.on_ray import RayCluster as RayCluster
    from .presets.bridge.a1111.importing import FromA1111 as FromA1111
    from .presets.bridge.a1111.importing import from_a1111 as from_a1111
    from .presets import bridge as bridge
    from .presets.adapter import load_adapter as load_adapter
    from .presets.bridge.comfyui import from_comfyui as from_comfyui
    from .presets.bridge.comfyui import to_comfyui as to_comfyui
    from .presets.embedding import load_embedding as load_embedding
    from .presets.inspect import inspect as inspect
    from .presets.load import load as load
    from .presets.load import load_component as load_component
    from .presets.training import data as data
    from .presets.training.data.load import load_data as load_data
    from .presets.training.plan import TrainingPlan as TrainingPlan
    from .presets.training.settings import TrainingSettings as TrainingSettings
    from .presets.training.train import plan_training as plan_training
    from .presets.training.train import resume_training as resume_training
    from .presets.training.train import train as train
    from .presets.training.trainer import Trainer as Trainer
    from .presets.names import names
    from .presets.push import push_to_hub as push_to_hub
    from .presets.records.picture import Picture as Picture
    from .presets.records.replay import Replay as Replay
    from .presets.records.replay import replay as replay
    from .presets.resume import resume as resume
    from .registry import UnknownName as UnknownName

    presets = names

__version__ = "0.1.0"

_GRAPH = (
    "Block", "BlockFailed", "BrokenBlock", "Cancelled", "Cell", "ConfigError", "Edge", "Event", "Graph",
    "GraphError", "GraphFileError", "InputError", "LatentSpace", "LoadError", "Loop", "Malformed", "Map", "Memory",
    "NotFinite", "Outputs", "Paused", "PictureError", "Port", "Problem", "ProcessFailed", "RemoteError", "Run",
    "Running", "RunState", "SaveError", "SfumatoError", "Switch", "Unbound", "UnfitValue", "WireError", "assignable", "component", "debug",
    "gradients", "knob", "named",
)  # fmt: skip

_MODULES: dict[str, tuple[str, str | None]] = {  # public name -> module, and attribute if it is not the module
    **{name: (".graph", name) for name in _GRAPH},
    "Adapter": (".components.adapters.adapter", "Adapter"),
    "adapters": (".presets.adapters", None),
    "attention": (".components.attention", None),
    "Batch": (".presets.batch.batch", "Batch"),
    "batch": (".presets.batch.batch", "batch"),
    "BatchRow": (".presets.batch.manifest", "BatchRow"),
    "RayCluster": (".presets.batch.on_ray", "RayCluster"),
    "bridge": (".presets.bridge", None),
    "caches": (".components.caches", None),
    "from_comfyui": (".presets.bridge.comfyui", "from_comfyui"),
    "to_comfyui": (".presets.bridge.comfyui", "to_comfyui"),
    "Access": (".components.storage.hub", "Access"),
    "ComponentSpec": (".components.spec", "ComponentSpec"),
    "ComponentsManager": (".components.manager", "ComponentsManager"),
    "UnknownName": (".registry", "UnknownName"),
    "Embedding": (".components.adapters.embedding", "Embedding"),
    "events": (".graph.events", None),
    "guiders": (".blocks.guiders", None),
    "inspect": (".presets.inspect", "inspect"),
    "load": (".presets.load", "load"),
    "load_adapter": (".presets.adapter", "load_adapter"),
    "load_embedding": (".presets.embedding", "load_embedding"),
    "load_values": (".components.saved_values", "load_values"),
    "load_component": (".presets.load", "load_component"),
    "data": (".presets.training.data", None),
    "load_data": (".presets.training.data.load", "load_data"),
    "memo": (".graph.memo", "memo"),
    "engines": (".components.engines", None),
    "models": (".components.models", None),
    "parallel": (".components.parallel", None),
    "presets": (".presets", None),
    "prompts": (".blocks.prompts", None),
    "push_to_hub": (".presets.push", "push_to_hub"),
    "save_values": (".components.saved_values", "save_values"),
    "FromA1111": (".presets.bridge.a1111.importing", "FromA1111"),
    "from_a1111": (".presets.bridge.a1111.importing", "from_a1111"),
    "Picture": (".presets.records.picture", "Picture"),
    "Replay": (".presets.records.replay", "Replay"),
    "remote": (".components.remote", None),
    "RemoteAutoencoder": (".components.remote.autoencoder", "RemoteAutoencoder"),
    "replay": (".presets.records.replay", "replay"),
    "resume": (".presets.resume", "resume"),
    "RunGroup": (".graph.together", "RunGroup"),
    "schedulers": (".components.schedulers", None),
    "Sweep": (".graph.sweep", "Sweep"),
    "taps": (".components.taps", None),
    "together": (".graph.together", "together"),
    "plan_training": (".presets.training.train", "plan_training"),
    "resume_training": (".presets.training.train", "resume_training"),
    "train": (".presets.training.train", "train"),
    "Trainer": (".presets.training.trainer", "Trainer"),
    "TrainingPlan": (".presets.training.plan", "TrainingPlan"),
    "TrainingSettings": (".presets.training.settings", "TrainingSettings"),
}

__all__ = [*_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]  one list, not two


def __getattr__(name: str) -> Any:  # the object of any public name
    if name not in _MODULES:
        raise AttributeError(f"sfumato has no {name!r}. It has: {', '.join(_MODULES)}.")
    module, attribute = _MODULES[name]
    imported = import_module(module, __name__)
    return getattr(imported, attribute) if attribute else imported


def __dir__() -> list[str]:
    return [*__all__]
