"""Trusted code in a separate process: blocks whose calls are sent to the process that has imported the code.

`protections.py` lists what the process cannot do. Three processes take part: the user's program; the isolated process,
which has the code (`worker.py`); and between them a small supervisor, which ends the isolated process with all its
descendants (`supervisor.py`). Values go through two pipes (`frames.py`, `messages.py`).
"""
