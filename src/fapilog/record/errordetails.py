"""An exception, as it is kept in an event: `ErrorDetails`."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Self

from msgspec.structs import force_setattr

from .privacy import Discreet
from .values import UnreadableError, ask, cut, given_text, name_of, text

__all__ = ["BEGINNING", "MAX_REPEATED", "MAX_TRACEBACK", "Described", "ErrorDetails", "described", "in_short"]

# The end of a traceback has the failure; a deep recursion must not fill the disk.
MAX_TRACEBACK: Final = 32_768
# The text of an error is in a traceback too, and in the message of `log_error`: a longer one is there in short.
MAX_REPEATED: Final = 1024
BEGINNING: Final = "Error occurred: "
"""The beginning of the message that `log_error` makes of an error's text."""


class ErrorDetails(Discreet, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    An exception, as it is kept in an event.

    Whatever is given becomes text, with a lone surrogate as its escape. Its `repr` shows the type alone.

    Attributes:
        type: Qualified name of its class.
        message: Its text.
        traceback: The text that Python prints, with causes; only its end if it is very long.
    """

    _shown = ("type",)

    type: str
    message: str
    traceback: str = ""

    def __post_init__(self) -> None:
        """Make the given values storable."""
        for name in self.__struct_fields__:
            force_setattr(self, name, text(getattr(self, name)))

    @classmethod
    def of(cls, error: object) -> Self:
        """Describe *error*; an object that is no exception by its type and text."""
        kind, message, trace = described(error)
        return cls(type=kind, message=message, traceback=cut(text(trace), MAX_TRACEBACK, keep_end=True))


class Described(NamedTuple):
    """An exception with its texts whole, and with the lone surrogates that they have."""

    type: str
    message: str
    traceback: str


def described(error: object) -> Described:
    """Describe *error*; an object that is no exception by its type and text."""
    kind = type(error)
    module = _module(kind)
    name = name_of(kind) if module == "builtins" else f"{module}.{name_of(kind)}"
    message = given_text(error)
    trace = _traceback(error, f"{name}: {message}") if issubclass(kind, BaseException) else ""
    return Described(name, message, trace.replace(message, in_short(message)) if len(message) > MAX_REPEATED else trace)


def in_short(message: str) -> str:
    """Return *message*, the text of an error that is recorded whole elsewhere, or the beginning of a long one."""
    return cut(message, MAX_REPEATED)


def _module(kind: type) -> str:
    try:
        return given_text(ask(type.__dict__["__module__"].__get__, kind))
    except UnreadableError as error:
        return str(error)


def _traceback(error: Any, last_line: str) -> str:
    import traceback  # noqa: PLC0415  asyncio and trio import it: a process that only imports fapilog need not

    try:
        return "".join(ask(traceback.format_exception, error))
    except UnreadableError as failure:
        # A SyntaxError that a template engine made with a value that is no text, for example.
        why = str(failure)

    def frames_of(error: Any) -> str:
        return "".join(traceback.format_tb(error.__traceback__))

    try:
        frames = ask(frames_of, error)
    except UnreadableError:
        frames = ""
    return f"{frames}{last_line}\n{why}\n"
