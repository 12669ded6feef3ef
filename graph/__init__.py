"""The language: blocks, ports, graphs, loops."""
