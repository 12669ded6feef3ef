"""Files of checkpoints: folders, repos of the Hub, JSON, and tensors by name."""
