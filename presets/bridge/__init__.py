"""Bridges to other programs: workflows of ComfyUI, blocks and pipelines of diffusers."""

from . import comfyui as comfyui
from .diffusers import diffusers_block as diffusers_block
from .diffusers import to_diffusers as to_diffusers

__all__ = ["comfyui", "diffusers_block", "to_diffusers"]
