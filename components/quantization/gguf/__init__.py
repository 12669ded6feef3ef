"""GGUF files: read, write, and compute with packed weights."""
