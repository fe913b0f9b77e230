"""The `fapilog` command: a demonstration, checks of a trail and of alerts. Its libraries are the extra ``cli``."""

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
    app(prog_name="fapilog")
