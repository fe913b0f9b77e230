"""The failures to record an event about the application's own work: they are logged, and not raised into that work."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from ..tasks.strangers import Log, is_interrupt, tamed

__all__ = ["logged"]

_log: Final = Log("fapilog")


@contextmanager
def logged(words: str, *args: object) -> Generator[None]:
    """
    Log whatever is raised inside: as *words*, which say that something is not recorded, and by its type.

    Raises:
        BaseException: It is for the application: that of a signal handler, as of a time limit, `KeyboardInterrupt`,
            `SystemExit`, or the cancellation of this task.
    """
    try:
        yield
    except GeneratorExit:
        # Of a coroutine that is closed in here.
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        _log.error(f"{words}: %s", *args, type(tamed(error)).__qualname__)
