"""The `parameters` text of AUTOMATIC1111's web UI, Forge and their relatives: read, written, and made into a graph."""
