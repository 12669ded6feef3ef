"""Words to conditioning."""
