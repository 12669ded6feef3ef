"""Workflows of ComfyUI: read, turned into graphs, and written."""
