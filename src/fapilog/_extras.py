"""Extras: the libraries that they bring, and how to get these by one line that says where this package comes from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution

__all__ = ["MissingExtraError", "install_line", "needs"]


class MissingExtraError(ModuleNotFoundError):
    """Raised when the library of an extra is not installed; the message says how to get it."""


@contextmanager
def needs(extra: str) -> Generator[None]:
    """
    Import the libraries of an extra in this block.

        with needs("slack"):
            import httpx2

    Args:
        extra: Its name.

    Raises:
        MissingExtraError: One of the libraries is not installed.
        ModuleNotFoundError: One of our own modules is not there.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ModuleNotFoundError as missing:
        if (missing.name or "fapilog").startswith("fapilog"):
            raise
        words = f"this needs {missing.name}, which comes with: {install_line(extra)}"
        raise MissingExtraError(words, name=missing.name) from None


def install_line(extra: str) -> str:
    """
    Return the command that installs *extra*, from where this package was installed from.

    Without that place pip would ask PyPI, where another package has this name.
    """
    place = _place()
    wanted = f"/path/to/the/clone[{extra}]" if place is None else f"fapilog[{extra}] @ {place}"
    return f"pip install {shlex.quote(wanted)}"


def _place() -> str | None:
    """Return the address that pip installed from; None if it noted none, as of a package from an index."""
    try:
        # https://packaging.python.org/en/latest/specifications/direct-url/: without credentials in it.
        noted = json.loads(distribution("fapilog").read_text("direct_url.json") or "null")
    except (PackageNotFoundError, ValueError):
        return None
    match noted:
        case {"url": str(url), "vcs_info": {"vcs": str(vcs), "commit_id": str(commit)}}:
            return f"{vcs}+{url}@{commit}"
        case {"url": str(url)}:
            return url
        case _:
            return None
