"""Quantized weights: what is stored in few bits, and how layers compute with it."""
