"""How to get the library that an extra brings: one line, which says where this package comes from."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution

__all__ = ["how_to_get", "install_line"]


def how_to_get(missing: ModuleNotFoundError, extra: str) -> str:
    """
    Return the words on how to get a library.

    Args:
        missing: Raised by an import.
        extra: The extra that brings the library.

    Raises:
        ModuleNotFoundError: *missing*, since it is one of our own modules that is not there.
    """
    if (missing.name or "fapilog").startswith("fapilog"):
        raise missing
    return f"this needs {missing.name}, which comes with: {install_line(extra)}"


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
