"""An exception, as it is kept in an event: `ErrorDetails`."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Self

from msgspec.structs import force_setattr

from .privacy import CAUSE, CONTEXT, MEMBERS, TRACE, Discreet
from .texts import cut
from .values import UnreadableError, args_length, ask, given_text, name_of, text

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
    name, message = _type_name(kind), given_text(error)
    trace = _traceback(error, f"{name}: {message}") if issubclass(kind, BaseException) else ""
    return Described(name, message, trace.replace(message, in_short(message)) if len(message) > MAX_REPEATED else trace)


def _type_name(kind: type) -> str:
    module = _module(kind)
    return name_of(kind) if module == "builtins" else f"{module}.{name_of(kind)}"


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
        return "".join(ask(traceback.format_exception if ask(_is_small, error) else _end_of_traceback, error))
    except UnreadableError as failure:
        # A SyntaxError that a template engine made with a value that is no text, for example.
        why = str(failure)
    try:
        frames = ask(_frames_of, error)
    except UnreadableError:
        frames = ""
    return f"{frames}{last_line}\n{why}\n"


# Exceptions and frames in a traceback that Python prints, which takes a twentieth of a millisecond for each.
_MAX_PRINTED: Final = 1500
# Of each exception in any other traceback.
_MAX_FRAMES: Final = 200
_MAX_NOTES: Final = 10
# Python's own, between a cause or a context and its exception.
_WORDS: Final = (
    "\nThe above exception was the direct cause of the following exception:\n\n",
    "\nDuring handling of the above exception, another exception occurred:\n\n",
)
# Characters of a frame with a short path and line.
_LEAST_FRAME: Final = 64


def _is_small(error: BaseException) -> bool:
    """Return whether the traceback that Python prints for *error* is short enough to be printed."""
    room, characters = _MAX_PRINTED, 16 * MAX_TRACEBACK
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        each = waiting.pop()
        room -= 1
        characters -= args_length(each) + args_length(getattr(each, "__notes__", None))
        trace = TRACE.__get__(each)
        while trace is not None and room >= 0:
            trace, room = trace.tb_next, room - 1
        if room < 0 or characters < 0:
            return False
        for behind in (CAUSE.__get__(each), CONTEXT.__get__(each)):
            if behind is not None and id(behind) not in seen:
                seen.add(id(behind))
                waiting.append(behind)
        if issubclass(type(each), BaseExceptionGroup):
            # Python prints one as often as it is there, and makes all before it prints some.
            waiting += MEMBERS.__get__(each)[: room + 1]
    return True


def _end_of_traceback(error: BaseException) -> str:
    """Return the end of a traceback like Python's: without the members of groups, and with texts in short."""
    parts: list[str] = []
    left = MAX_TRACEBACK
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        if left < 0:
            parts.append("… (more exceptions)\n")
            break
        seen.add(id(each))
        cause = CAUSE.__get__(each)
        part = f"{_frames_of(each)}{_type_name(type(each))}: {in_short(given_text(each))}\n{_notes(each)}"
        parts.append(part)
        # Equal frames, as of a recursion, take as long and are few lines.
        left -= max(len(part), _LEAST_FRAME * min(_count_of(each), _MAX_FRAMES))
        each = cause if cause is not None or each.__suppress_context__ else CONTEXT.__get__(each)
        if each is not None:
            parts.append(_WORDS[cause is None])
    return "".join(reversed(parts))


def _frames_of(error: BaseException) -> str:
    import traceback  # noqa: PLC0415

    trace = TRACE.__get__(error)
    if trace is None:
        return ""
    count = _count_of(error)
    omitted = f"  … ({count} frames)\n" if count > _MAX_FRAMES else ""
    frames = "".join(traceback.format_tb(trace, limit=-_MAX_FRAMES))
    return f"Traceback (most recent call last):\n{omitted}{frames}"


def _count_of(error: BaseException) -> int:
    trace, count = TRACE.__get__(error), 0
    while trace is not None:
        trace, count = trace.tb_next, count + 1
    return count


def _notes(error: BaseException) -> str:
    notes: Any = getattr(error, "__notes__", None)
    if not issubclass(type(notes), list | tuple):
        return ""
    more = [f"… ({len(notes)} notes)"] if len(notes) > _MAX_NOTES else []
    return "".join(f"{each}\n" for each in [*(in_short(given_text(note)) for note in notes[:_MAX_NOTES]), *more])
