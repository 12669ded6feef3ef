"""The blocks we ship: the vocabulary that presets are written in."""
