"""The `sfumato` command. Importing it imports neither torch nor any command's work."""

import sys


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    try:
        from .app import app

        app()
    except KeyboardInterrupt:  # while this was still being imported; later, the commands tell it
        sys.stderr.write("error: stopped by Ctrl-C.\n")
        sys.exit(130)
