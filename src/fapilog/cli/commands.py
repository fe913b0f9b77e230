"""The commands, as typer takes them: a module for each, or for those that share their options."""

import sys
from typing import Annotated, Final

import typer

from .. import __version__
from .alerts import alerts
from .check_config import check_config
from .continue_ import continue_
from .copy import copy
from .demo import demo
from .events import count, show, tail
from .hold import hold
from .recover import recover
from .replicate import replicate
from .retain import retain
from .send_test import send_test
from .storage import storage
from .verify import verify

__all__ = ["app"]

app: Final = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    # A traceback with the values of variables may show personal data.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    # The docstrings are the help.
    epilog="Python has removed most of this help (-OO, or PYTHONOPTIMIZE=2)." if sys.flags.optimize > 1 else None,
)
app.add_typer(alerts, name="alerts")
app.add_typer(hold, name="hold")
app.add_typer(storage, name="storage")
app.command()(show)
app.command()(tail)
app.command()(count)
app.command()(check_config)
app.command()(copy)
app.command("continue")(continue_)
app.command()(replicate)
app.command()(retain)
app.command()(demo)
app.command()(verify)
app.command()(recover)
app.command()(send_test)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"fapilog {__version__}")
        raise typer.Exit


@app.callback()
def _fapilog(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """A hash-chained, durable audit trail that alerts."""
