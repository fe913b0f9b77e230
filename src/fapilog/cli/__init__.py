"""The `fapilog` command: a demonstration, checks of a trail and of alerts. Its libraries are the extra ``cli``."""

import io
import sys

from .._extras import MissingExtraError, needs

__all__ = ["main"]


def main() -> None:
    """Run the command; without the libraries of the extra, say how to get them and exit with 2."""
    try:
        with needs("cli"):
            from .commands import app  # noqa: PLC0415 - only here, so that there is an answer where one is missing
    except MissingExtraError as missing:
        sys.stderr.write(f"fapilog: {missing}\n")
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        # In an encoding that lacks a character, its number is printed: `LC_ALL=C`, `PYTHONIOENCODING=latin-1`.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="fapilog")
