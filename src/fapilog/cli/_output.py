"""What a command prints: lines, tables, its progress, the verdict on a trail, a failure; and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.progress import Progress, ProgressColumn
from rich.table import Table
from rich.text import Text

from .. import AuditChainVerificationResult, AuditStorageError, TrailMismatchError

__all__ = [
    "CANNOT",
    "INTERRUPTED",
    "NO",
    "Output",
    "bad_parameters",
    "counted",
    "failed",
    "headed",
    "in_json",
    "plain",
    "progress",
    "storage_failures",
    "verdict",
]

NO: Final = 1
"""The command did what it was asked, and the answer is no: not intact, not there, not delivered."""
CANNOT: Final = 2
INTERRUPTED: Final = 130


def plain(text: str) -> str:
    """Return *text* as one line that a terminal shows and does not obey."""
    return "".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text)


def failed(words: object, code: int = CANNOT) -> typer.Exit:
    """Say on the standard error why the command fails, and return the exit to raise."""
    typer.echo(plain(f"fapilog: {words}"), err=True)
    return typer.Exit(code)


@contextmanager
def storage_failures() -> Generator[None, None, None]:
    """End the command with the words of an `AuditStorageError`, and with `NO` where two trails are not the same one."""
    try:
        yield
    except AuditStorageError as error:
        raise failed(error, NO if isinstance(error, TrailMismatchError) else CANNOT) from None


@contextmanager
def bad_parameters(option: str = "", hint: str | None = None) -> Generator[None, None, None]:
    """End the command with the words of a `ValueError`, without the *option* that these begin with, about *hint*."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix(f"{option}: "), param_hint=hint) from None


def in_json(value: Any) -> str:
    """Return *value* as one line of JSON, in ASCII, which no terminal obeys."""
    return json.dumps(msgspec.to_builtins(value))


def counted(count: int, what: str) -> str:
    """Return how many there are, in words: "1 record", "2 records"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


class Output(Console):
    """
    The standard output, on which a text is no markup, whatever it has in brackets.

    If its reader goes away, the command still runs to its end, and to its exit code.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Be quiet from now on, where rich would end the process."""
        with suppress(SystemExit):
            super().on_broken_pipe()

    def show(self, shown: RenderableType) -> None:
        """Print a table, or several; off a terminal a row is one line, however long, without blanks at its end."""
        if self.is_terminal:
            self.print(shown)
            return
        # By rich, thousands of rows would take seconds, and each be as wide as the longest.
        self.out("\n".join(_lines(shown)))


def _lines(shown: RenderableType) -> Iterator[str]:
    """Yield the rows of a table, or of several, as lines of text."""
    if isinstance(shown, Group):
        for each in shown.renderables:
            yield from _lines(each)
    elif isinstance(shown, Table):
        columns: list[list[str]] = []
        for column in shown.columns:
            cells = [str(cell) for cell in [*([column.header] if shown.show_header else []), *column.cells]]
            width = max(map(cell_len, cells), default=0)
            blanks = [" " * (width - cell_len(cell)) for cell in cells]
            is_right = column.justify == "right"
            columns.append([b + c if is_right else c + b for c, b in zip(cells, blanks, strict=True)])
        for row in zip(*columns, strict=True):
            yield "  ".join(row).rstrip()
    else:
        yield from str(shown).split("\n")


def headed(*heads: str) -> Table:
    """Return a table in the manner of the command; columns that need more than a head are added to it."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in heads:
        table.add_column(head)
    return table


@contextmanager
def progress(*columns: ProgressColumn, total: int | None) -> Generator[Callable[[int], None], None, None]:
    """Show how far a command is, of *total* records; yields a function that takes the number so far."""
    # Not on the standard output, which may be piped while the terminal shows the progress.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as shown:
        task = shown.add_task("", total=total)
        yield lambda reached: shown.update(task, completed=reached)


def verdict(result: AuditChainVerificationResult) -> Text:
    """Return the result of a verification in words."""
    if not result.valid:
        # Damage is said to be so only where it was seen.
        words = "NOT CHECKED" if result.first_invalid_sequence is None else "NOT VALID"
        return Text(f"{words}: {result.error_message}", style="bold red")
    records = counted(result.events_checked, "record")
    found = Text(f"valid: {records}, none altered, none missing in between", style="bold green")
    if result.error_message is not None:
        found.append(f"; {result.error_message}", style="yellow")
    return found
