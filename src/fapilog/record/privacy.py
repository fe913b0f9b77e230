"""
Keep secrets and personal data out of crash reports, logs and debuggers.

Crash reporters print the local variables of every frame of a traceback, by `repr`, and send them away.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, ClassVar, Final, NoReturn, SupportsIndex, TypeVar, cast

import msgspec

from .errors import FapilogError

__all__ = [
    "ADDRESS",
    "CAUSE",
    "CONTEXT",
    "MEMBERS",
    "TRACE",
    "Discreet",
    "Uncopied",
    "behind",
    "leave_frames_out",
    "place_of",
    "without_frames",
]

F = TypeVar("F", bound=Callable[..., Any])

ADDRESS: Final = "address"
"""Marks, in `Annotated`, a secret that a configuration may also have as text, if that text has no password in it."""


class Discreet(msgspec.Struct, frozen=True):
    """
    A struct whose `repr` shows the fields named in `_shown` alone: nothing personal, and no secret.

    Crash reporters, debuggers and log handlers print local variables by `repr`; rich asks msgspec's structs for all
    their fields, unless they name some. It is no tuple: Sentry prints a tuple's items one by one.
    """

    _shown: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = [value.value if isinstance(value, Enum) else value for _, value in self.__rich_repr__()]
        return f"<{' '.join([type(self).__qualname__, *map(str, shown)])}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show rich the same fields as `repr`."""
        return [(name, getattr(self, name)) for name in self._shown]


class Uncopied:
    """
    An object of which there is one: `copy` and `pickle` refuse it with TypeError.

    Its secrets must not be in a second place, and the locks, files and tasks of a copy would be those of the first, or
    none: only what is made by its own constructor is made anew in a forked child.
    """

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse, in words."""
        name = type(self).__qualname__
        words = "holds secrets, locks or files: it is neither copied nor pickled"
        raise TypeError(f"{name} {words}; make another where it is needed, such as in another process")


def without_frames(function: F) -> F:
    """
    Make *function* raise its exceptions, and their causes, with the frames of its caller alone.

    It is for functions, asynchronous or not, that deal with secrets or records as plain text. A crash reporter can't
    distinguish their frames, and the frames of the libraries that they call, from harmless ones. Our errors have all
    details in their text; any other exception gets a note with the file and the line that it came from. A cancellation
    loses its frames too, since a `TimeoutError` may be raised from it. An exception that the caller was handling
    already stays as it is.
    """

    @functools.wraps(function)
    async def wait(*args: Any, **kwargs: Any) -> Any:
        handled = sys.exception()
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            leave_frames_out(error, handled)
            # Raised again as it is, without this frame.
            raise

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        handled = sys.exception()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            leave_frames_out(error, handled)
            raise

    return cast("F", wait if iscoroutinefunction(function) else call)


def leave_frames_out(error: BaseException, handled: BaseException | None) -> None:
    """
    Take the frames of *error* away, as `without_frames` does, before it is raised again by ``raise``.

    Args:
        error: The exception that is being handled.
        handled: The one that was when the function was called, which stays as it is: `sys.exception`.
    """
    for each in behind(error, handled):
        if issubclass(type(each), Exception) and not issubclass(type(each), FapilogError):
            _note_place(each)
        TRACE.__set__(each, None)


def behind(error: BaseException, handled: BaseException | None = None) -> Iterator[BaseException]:
    """
    Yield *error* and the exceptions that led to it, all members of groups included.

    Args:
        error: The exception.
        handled: The one that the caller was handling before, which Python chains to all later ones, and which is left
            out with its own causes.
    """
    waiting: list[BaseException | None] = [error]
    seen = {id(None), id(handled)}
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [CONTEXT.__get__(each), CAUSE.__get__(each)]
            if issubclass(type(each), BaseExceptionGroup):
                waiting += reversed(MEMBERS.__get__(each))


# As Python itself reads and writes them: a subclass may have properties of these names, which may raise.
CAUSE: Final[Any] = vars(BaseException)["__cause__"]
CONTEXT: Final[Any] = vars(BaseException)["__context__"]
TRACE: Final[Any] = vars(BaseException)["__traceback__"]
MEMBERS: Final[Any] = vars(BaseExceptionGroup)["exceptions"]


def _note_place(error: BaseException) -> None:
    # Also a plain attribute, which a subclass may answer for by itself.
    with suppress(Exception):
        if TRACE.__get__(error) is not None and not getattr(error, "__notes__", None):
            error.add_note(f"raised in {place_of(error)}")


def place_of(error: BaseException) -> str:
    """Return where *error* was raised: the file, without its directory, and the line; "?" if it was not raised."""
    trace: TracebackType | None = TRACE.__get__(error)
    if trace is None:
        return "?"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}, line {trace.tb_lineno}"
