"""The `sfumato` command. Importing it imports neither torch nor any command's work."""


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    from .app import app

    app()
