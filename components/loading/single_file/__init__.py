"""Checkpoints in one file: their models, recognised by names and shapes of tensors."""
