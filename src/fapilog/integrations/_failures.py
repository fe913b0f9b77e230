"""The failures to record an event about the application's own work: they are logged, and not raised into that work."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from ..tasks.strangers import Log, is_interrupt

__all__ = ["logged"]

_log: Final = Log("fapilog")


@contextmanager
def logged(words: str, *args: object) -> Generator[None]:
    """
    Log an exception that is raised inside: as *words*, which say that something is not recorded, and by its type.

    Raises:
        BaseException: It is for the application: that of a signal handler, as of a time limit, or a cancellation.
    """
    try:
        yield
    except Exception as error:
        if is_interrupt(error):
            raise
        _log.error(f"{words}: %s", *args, type(error).__qualname__)
