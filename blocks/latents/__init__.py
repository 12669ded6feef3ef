"""Latents before the loop: how many, from which noise, at which levels."""
