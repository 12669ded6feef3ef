"""GGUF files: read, written, and computed with as they are stored."""
