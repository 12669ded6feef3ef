"""Kernels of attention: the functions that compute it, and the table that chooses one."""
