"""The `fapilog` command: a demonstration, checks of a trail and of alerts. Its libraries are the extra ``cli``."""

import io
import os
import sys

from .._extras import MissingExtraError, needs

__all__ = ["main"]


def main() -> None:
    """
    Run the command, and exit.

    The exit code is 2 where the output can't be written, and without the libraries of the extra, which are named; 130
    after Ctrl-C.
    """
    try:
        with needs("cli"):
            from .commands import app  # noqa: PLC0415 - only here, so that there is an answer where one is missing
    except MissingExtraError as missing:
        sys.stderr.write(f"fapilog: {missing}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        # As typer ends from here on.
        sys.exit(130)
    for stream in (sys.stdout, sys.stderr):
        # In an encoding that lacks a character, its number is printed: `LC_ALL=C`, `PYTHONIOENCODING=latin-1`.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="fapilog")
    except SystemExit as end:
        # With 1 typer ends where the reader of the output has gone away; to our commands that is an answer, "no".
        if not isinstance(end.__context__, BrokenPipeError):
            raise
    except OSError as error:
        from ._output import plain  # noqa: PLC0415 - it needs the extra

        # Of a directory that this user may not look into, or whose name is too long.
        where = "" if error.filename is None else f"{error.filename}: "
        sys.stderr.write(plain(f"fapilog: cannot go on: {where}{error.strerror or error}") + "\n")
    # What could not be written would be tried again at the exit, which would then end with another code.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(2)
