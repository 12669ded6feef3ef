"""Bridges to other programs: `sf.bridge.comfyui`."""

from . import comfyui as comfyui

__all__ = ["comfyui"]
