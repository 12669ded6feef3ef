"""Training: recipes made from presets, what is trained, data, and the trainer."""
