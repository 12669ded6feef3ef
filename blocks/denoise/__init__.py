"""The denoising loop: the model as a function, and the step along the schedule."""
