"""Batches: a table of requests, drawn into a folder, on this machine or on a cluster."""
