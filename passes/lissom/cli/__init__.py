"""The command line: one file a subcommand, and nothing that the Python API does not do too."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer
from lissom_runtime.errors import LissomError

from lissom.cli import check, compress, demo, inspect, lower, recover, sweep, target
from lissom.cli.console import Console, say_error
from lissom.version import __version__

app = typer.Typer(
    name="lissom",
    help="Makes ONNX models smaller and faster, and proves it on ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compress")(compress.compress)
app.command("sweep")(sweep.sweep)
app.command("check")(check.check)
app.command("inspect")(inspect.inspect)
app.command("lower")(lower.lower)
app.command("recover")(recover.recover)
app.command("target")(target.target)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options that go without a subcommand."""
    if version:
        typer.echo(f"lissom {__version__}")
        raise typer.Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    0 goals met; 1 a bound or goal was missed; 2 usage, recipe or data; 3 the model or the
    execution provider cannot be loaded; 4 verification failed, or a defect of lissom.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = app(args=words, prog_name="lissom", standalone_mode=False)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.TyperException as error:
        if error.format_message():  # empty after the help that a bare `lissom` prints
            say_error(error.format_message())
        return 2
    except typer.Abort:
        say_error("interrupted; nothing was written")
        return 130
    except LissomError as error:
        say_error(str(error))
        if Console.verbosity > 1:
            traceback.print_exc()
        return error.exit_code
    except Exception as error:  # a defect: one line, and the traceback for those who ask with -vv
        say_error(f"a defect of lissom, please report it: {type(error).__name__}: {error}")
        if Console.verbosity > 1:
            traceback.print_exc()
        return 4
    return int(code or 0)


def entry() -> None:
    """The console script."""
    sys.exit(main())
