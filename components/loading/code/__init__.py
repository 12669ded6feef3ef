"""Blocks whose code lies in a repo or folder: read as text, shown, trusted by hash, and only then run."""
