"""Bridges to other programs: workflows of ComfyUI, texts of A1111, blocks and pipelines of diffusers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import comfyui as comfyui
    from .diffusers import diffusers_block as diffusers_block
    from .diffusers import to_diffusers as to_diffusers

__all__ = ["comfyui", "diffusers_block", "to_diffusers"]


def __getattr__(name: str) -> Any:  # a module or a function: each picture has the text of A1111, and needs no other
    if name not in __all__:
        raise AttributeError(f"sf.bridge has no {name!r}. It has: {', '.join(__all__)}.")
    if name == "comfyui":
        return import_module(".comfyui", __name__)
    return getattr(import_module(".diffusers", __name__), name)
