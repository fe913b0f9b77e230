"""Check a configuration, and say everything that is wrong with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import AuditTrail
from ..config import ConfigError, options_from_env, options_from_toml
from ._output import NO, failed, plain

__all__ = ["check_config"]


def check_config(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A TOML file with [tool.fapilog]; pyproject.toml by default."),
    ] = None,
    *,
    env: Annotated[bool, typer.Option("--env", help="Check the FAPILOG_ variables, and no file.")] = False,
) -> None:
    """
    Check the configuration of a trail.

    Says everything that is wrong with it, and where. Sends nothing, and makes no file. The secrets that it refers to
    must be there, as they are for your service. Nothing that is printed can drive a terminal.

    Exit code: 0 if a trail can be made of it, 1 if not, 2 if the file can't be read.
    """
    if env and file is not None:
        raise typer.BadParameter("expected either FILE or --env")
    file = file or Path("pyproject.toml")
    place = "the environment" if env else str(file)
    try:
        options = options_from_env() if env else options_from_toml(file)
    except ConfigError as error:
        for problem in error.problems:
            # Of a file that is no TOML, it begins with the file already.
            typer.echo(plain(problem if problem.startswith(f"{place}: ") else f"{place}: {problem}"))
        raise typer.Exit(NO) from None
    except OSError as error:
        raise failed(f"{file}: {error.strerror}") from None
    except ValueError as error:
        # The path begins with the home directory of an unknown user.
        raise failed(f"{file}: {error}") from None
    typer.echo(plain(f"{place}: {_described(options)}"))


def _described(options: dict[str, Any]) -> str:
    trail = AuditTrail(**options)
    dispatcher = options.get("alert_dispatcher")
    to = "nowhere" if dispatcher is None else f"to {type(dispatcher).__qualname__}"
    # The text of a storage of ours has no secret, and a configuration makes no other.
    places = {"replica": options.get("replica"), "archive": options.get("archive")}
    others = "".join(f", {name} in {place}" for name, place in places.items() if place is not None)
    place = options.get("storage") or trail.storage_path
    return f"good; records in {place}{others}, level {trail.policy.level.value}, alerts {to}"
