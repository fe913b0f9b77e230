"""How a command ends: its exit codes, and the words of a failure."""

from __future__ import annotations

from typing import Final

import typer

from ._output import plain

__all__ = ["CANNOT", "INTERRUPTED", "NO", "failed"]

NO: Final = 1
"""The command did what it was asked, and the answer is no: not intact, not there, not delivered."""
CANNOT: Final = 2
INTERRUPTED: Final = 130


def failed(words: object, code: int = CANNOT) -> typer.Exit:
    """Say on the standard error why the command fails, and return the exit to raise."""
    typer.echo(plain(f"fapilog: {words}"), err=True)
    return typer.Exit(code)
