"""Workflows of ComfyUI: read, turned into graphs, and written; and blocks for node types of your own."""

from .hole import Hole as Hole
from .importing import Imported as Imported
from .importing import from_comfyui as from_comfyui
from .opening import read_workflow as read_workflow
from .report import Report as Report
from .run_blocks import BLOCKS as BLOCKS
from .run_blocks import node as node
from .workflow import Workflow as Workflow
from .writing import to_comfyui as to_comfyui

__all__ = ["BLOCKS", "Hole", "Imported", "Report", "Workflow", "from_comfyui", "node", "read_workflow", "to_comfyui"]
