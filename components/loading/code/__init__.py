"""Blocks whose code is in a repo or folder: read as text, shown, trusted by hash, and only then imported."""
