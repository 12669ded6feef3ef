"""The `sfumato` command. Importing this package imports neither torch nor the commands."""

import gc
import io
import sys


def main() -> None:
    """Run the command line of this process and exit with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # letters that the terminal's encoding lacks
    try:
        from .app import app

        app()
    except KeyboardInterrupt:  # during the imports; the commands report it themselves
        sys.stderr.write("error: stopped by Ctrl-C.\n")
        sys.exit(130)
    except Exception:  # an error of this program
        from .messages import print_traceback

        print_traceback()
        sys.exit(1)
    finally:
        gc.freeze()  # else Python's last collection walks everything that torch imported: 0.4 s
