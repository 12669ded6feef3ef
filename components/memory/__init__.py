"""What stays in memory, where, and how large models run in small memory."""
