"""Pictures in: pixels, masks, and their latents."""
