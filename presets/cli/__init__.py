"""The `sfumato` command. Importing this package imports neither torch nor the commands."""

import gc
import sys


def main() -> None:
    """Run the command line of this process and exit with its code."""
    try:
        from .app import app

        app()
    except KeyboardInterrupt:  # during the imports; the commands report it themselves
        sys.stderr.write("error: stopped by Ctrl-C.\n")
        sys.exit(130)
    finally:
        gc.freeze()  # else Python's last collection walks everything that torch imported: 0.4 s
