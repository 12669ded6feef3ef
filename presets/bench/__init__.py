"""Measurements of pipelines: seconds, operations and memory of each block, between engines, and over time."""
