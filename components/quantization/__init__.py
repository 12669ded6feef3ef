"""Quantized weights: read, made, saved, and computed with."""
