"""All commands together, and how a wrong command line is reported."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .adapters import app as adapter
from .batch import batch
from .bench import bench
from .importing import import_workflow
from .messages import fail, print_text
from .plan import plan
from .queries import check, inspect, presets, show
from .replay import replay
from .run import run
from .sweep import sweep
from .training import app as training
from .trust import with_value

NAME = "sfumato"


class Commands(TyperGroup):
    """The group of all commands. It reports a wrong command line in one line, as the commands report their errors."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,  # what click passes on
    ) -> Any:
        """Run the command line `args`, or that of the process, and exit with its code."""
        args = with_value(sys.argv[1:] if args is None else args)
        try:
            code = self._run(args, complete_var, **extra)
        except typer.Exit as stop:
            code = stop.exit_code
        except KeyboardInterrupt:
            code = 130
        if standalone_mode:
            sys.exit(code or 0)
        return code

    def _run(self, args: list[str], complete_var: str | None, **extra: Any) -> Any:
        try:
            return super().main(args, NAME, complete_var, standalone_mode=False, **extra)
        except (typer.Exit, KeyboardInterrupt):
            raise
        except typer.Abort:
            fail("Cancelled", "stopped.", as_json=False)
        except Exception as error:  # typer has its own copy of click, without a public class to catch
            if not hasattr(error, "format_message"):  # click's errors of usage have it
                raise
            command = getattr(getattr(error, "ctx", None), "command_path", NAME)
            message = str(error.format_message()).rstrip(". ")  # type: ignore[attr-defined]
            text = f"{message}{'' if message.endswith('?') else '.'} Try '{command} --help'."
            fail("UsageError", text, as_json="--json" in args, code=2)


app = typer.Typer(
    cls=Commands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make pictures with diffusion models, and inspect models and graphs. Start with: sfumato run 'a red apple'",
)
for command in (run, sweep, batch, plan, replay, bench, show, check, inspect, presets):
    app.command()(command)
app.command("import")(import_workflow)
app.add_typer(adapter, name="adapter")
app.add_typer(training, name="train")


def _print_version(requested: bool) -> None:
    if requested:
        from sfumato import __version__

        print_text(f"sfumato {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
