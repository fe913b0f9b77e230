"""The person who gives a command."""

from __future__ import annotations

import getpass
import os

__all__ = ["operator"]


def operator() -> str:
    """Return the login of the person; under `sudo`, of the one who called it. Who may set variables can lie."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a user that has no name.
        return str(os.getuid())
