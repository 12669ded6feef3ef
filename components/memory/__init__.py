"""Memory: which components are loaded, on which device, and how a model larger than its device runs."""
