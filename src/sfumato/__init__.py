"""Diffusion pipelines as typed graphs of blocks."""
