"""How a command ends, by an exit code, and how it words what it prints."""

from __future__ import annotations

from typing import Final

import typer

__all__ = ["CANNOT", "INTERRUPTED", "NO", "counted", "failed", "plain"]

NO: Final = 1
"""The command did what it was asked, and the answer is no: not intact, not there, not delivered."""
CANNOT: Final = 2
INTERRUPTED: Final = 130


def plain(text: str) -> str:
    """Return *text* as one line that a terminal shows and does not obey."""
    return "".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text)


def counted(count: int, what: str) -> str:
    """Return how many there are, in words: "1 record", "2 records"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def failed(words: object, code: int = CANNOT) -> typer.Exit:
    """Say on the standard error why the command fails, and return the exit to raise."""
    typer.echo(plain(f"fapilog: {words}"), err=True)
    return typer.Exit(code)
