"""Plans: what a call would do and need, before it runs."""
