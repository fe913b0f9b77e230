"""Modules that `import fapilog` need not load."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import ForwardRef

from .errors import AuditStorageError

__all__ = ["imported_later", "loading"]


def imported_later(module: str, name: str) -> ForwardRef:
    """
    Return a stand-in for a type in another module, which is imported when somebody reads the annotations.

        if TYPE_CHECKING:
            from pathlib import Path
        else:
            Path = imported_later("pathlib", "Path")

    Containers of dependencies, for example, ask `typing.get_type_hints` for the arguments of a constructor. It
    evaluates the stand-in, and returns the type.

    Args:
        module: The full name of the module.
        name: The name of the type in that module. It can have no parameters where it is used.
    """
    return ForwardRef(f"__import__({module!r}, fromlist=[{name!r}]).{name}")


@contextmanager
def loading() -> Generator[None]:
    """
    Be around the import of a module that few processes need, in a call that raises no `OSError`.

    Raises:
        AuditStorageError: The module can't be read: no file descriptor is left, for example, or the interpreter ends.
    """
    try:
        yield
    except OSError as error:
        raise AuditStorageError(f"a module can't be loaded: {error.strerror}") from error
    except ImportError as error:
        # A finalizer calls when the interpreter has taken all modules away.
        raise AuditStorageError(f"a module can't be loaded: {error}") from error
