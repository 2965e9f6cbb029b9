"""What a person sees: one console for results, one for progress and errors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import rich.console
import rich.markup
import rich.progress
from lissom_runtime.errors import UsageError
from pydantic import BaseModel

from lissom.files import write_text
from lissom.graph.save import require_writable

Item = TypeVar("Item")


class Console:
    """The verbosity and the two streams of this process."""

    verbosity: ClassVar[int] = 0
    color: ClassVar[bool] = True
    to_stderr: ClassVar[bool] = False

    @classmethod
    def configure(cls, verbose: int, quiet: bool, color: bool, json_to_stdout: bool) -> None:
        """Sets how much is said, and where: results go to stderr when stdout carries JSON."""
        cls.verbosity = -1 if quiet else verbose
        cls.color = color
        cls.to_stderr = json_to_stdout

    @classmethod
    def out(cls) -> rich.console.Console:
        """Where results go."""
        stream = sys.stderr if cls.to_stderr else sys.stdout
        width = None if stream.isatty() else 120
        return rich.console.Console(
            file=stream, no_color=not cls.color, highlight=False, quiet=cls.verbosity < 0, width=width
        )

    @classmethod
    def err(cls) -> rich.console.Console:
        """Where progress and errors go."""
        return rich.console.Console(stderr=True, no_color=not cls.color, highlight=False, soft_wrap=True)


def say_error(message: str) -> None:
    """One sentence on stderr."""
    Console.err().print(f"[red]error:[/red] {rich.markup.escape(message)}")


def progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """A bar with the time left on stderr, only on a terminal."""
    console = Console.err()
    if Console.verbosity < 0 or not console.is_terminal:
        yield from items
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=len(items))
        for item in items:
            yield item
            bar.advance(task)


def write_json(report: BaseModel, target: str | None) -> None:
    """Writes a report to a file, or to stdout for "-"."""
    if target is None:
        return
    text = report.model_dump_json(indent=2)
    if target == "-":
        sys.stdout.write(text + "\n")
        return
    try:
        write_text(Path(target), text + "\n")
    except OSError as error:
        raise UsageError(f"expected to write {target}, but got: {error.strerror}") from error


def require_json(target: str | None, *others: Path | None) -> None:
    """Refuses a place for the report that cannot be written, or is one of the `others`, before any work is done.

    Raises:
        UsageError: it is a folder, a model of this call, or its folder cannot be written.
    """
    if target is None or target == "-":
        return
    require_writable(Path(target), overwrite=True)
    for other in others:
        if other is not None and Path(target).resolve() == other.resolve():
            raise UsageError(f"expected a report apart from the models, but --json and a model are both {target}")
