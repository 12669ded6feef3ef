"""Typed blocks that wire themselves into diffusion pipelines.

`import sfumato` imports nothing else. A public name imports its module when it is read.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocks import guiders as guiders
    from .components import models as models
    from .components import schedulers as schedulers
    from .components.manager import ComponentsManager as ComponentsManager
    from .components.spec import ComponentSpec as ComponentSpec
    from .components.storage.hub import Access as Access
    from .graph import (
        Block as Block,
    )  # fmt: skip
    from .graph import (
        BlockFailed as BlockFailed,
    )
    from .graph import (
        BrokenBlock as BrokenBlock,
    )
    from .graph import (
        Cancelled as Cancelled,
    )
    from .graph import (
        Cell as Cell,
    )
    from .graph import (
        ConfigError as ConfigError,
    )
    from .graph import (
        Edge as Edge,
    )
    from .graph import (
        Event as Event,
    )
    from .graph import (
        Graph as Graph,
    )
    from .graph import (
        GraphError as GraphError,
    )
    from .graph import (
        GraphFileError as GraphFileError,
    )
    from .graph import (
        InputError as InputError,
    )
    from .graph import (
        LatentSpace as LatentSpace,
    )
    from .graph import (
        LoadError as LoadError,
    )
    from .graph import (
        Loop as Loop,
    )
    from .graph import (
        Malformed as Malformed,
    )
    from .graph import (
        Map as Map,
    )
    from .graph import (
        Memory as Memory,
    )
    from .graph import (
        NotFinite as NotFinite,
    )
    from .graph import (
        Outputs as Outputs,
    )
    from .graph import (
        PictureError as PictureError,
    )
    from .graph import (
        Port as Port,
    )
    from .graph import (
        Problem as Problem,
    )
    from .graph import (
        Run as Run,
    )
    from .graph import (
        Running as Running,
    )
    from .graph import (
        SaveError as SaveError,
    )
    from .graph import (
        SfumatoError as SfumatoError,
    )
    from .graph import (
        Switch as Switch,
    )
    from .graph import (
        Unbound as Unbound,
    )
    from .graph import (
        UnfitValue as UnfitValue,
    )
    from .graph import (
        WireError as WireError,
    )
    from .graph import (
        assignable as assignable,
    )
    from .graph import (
        component as component,
    )
    from .graph import (
        debug as debug,
    )
    from .graph import (
        knob as knob,
    )
    from .graph import (
        named as named,
    )
    from .presets.inspect import inspect as inspect
    from .presets.load import load as load
    from .presets.load import load_component as load_component
    from .presets.names import names
    from .presets.push import push_to_hub as push_to_hub
    from .registry import UnknownName as UnknownName

    presets = names

__version__ = "0.1.0"

_GRAPH = (
    "Block", "BlockFailed", "BrokenBlock", "Cancelled", "Cell", "ConfigError", "Edge", "Event", "Graph",
    "GraphError", "GraphFileError", "InputError", "LatentSpace", "LoadError", "Loop", "Malformed", "Map", "Memory",
    "NotFinite", "Outputs", "PictureError", "Port", "Problem", "Run", "Running", "SaveError", "SfumatoError", "Switch", "Unbound",
    "UnfitValue", "WireError", "assignable", "component", "debug", "knob", "named",
)  # fmt: skip

_MODULES: dict[str, tuple[str, str | None]] = {  # public name -> module, and attribute if it is not the module
    **{name: (".graph", name) for name in _GRAPH},
    "Access": (".components.storage.hub", "Access"),
    "ComponentSpec": (".components.spec", "ComponentSpec"),
    "ComponentsManager": (".components.manager", "ComponentsManager"),
    "UnknownName": (".registry", "UnknownName"),
    "guiders": (".blocks.guiders", None),
    "inspect": (".presets.inspect", "inspect"),
    "load": (".presets.load", "load"),
    "load_component": (".presets.load", "load_component"),
    "models": (".components.models", None),
    "presets": (".presets", None),
    "push_to_hub": (".presets.push", "push_to_hub"),
    "schedulers": (".components.schedulers", None),
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
