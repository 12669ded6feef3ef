"""Hostile inputs, by kind: each module of `kinds` yields files, calls and answers that want more than to be read."""
