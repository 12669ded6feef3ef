"""Checkpoints in one file: what is in them, told from names and shapes, and the models of it."""
