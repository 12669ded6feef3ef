"""A law over files with changed numbers: what is read, how it is changed, and the process that reads it."""
