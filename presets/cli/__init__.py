"""The `sfumato` command. Importing it imports neither torch nor any command's work."""

import gc
import sys


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    try:
        from .app import app

        app()
    except KeyboardInterrupt:  # while this was still being imported; later, the commands tell it
        sys.stderr.write("error: stopped by Ctrl-C.\n")
        sys.exit(130)
    finally:
        gc.freeze()  # or Python's last collections walk all that torch imported: 0.4 s of every command
