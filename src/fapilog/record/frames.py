"""Keep the local variables of our functions out of tracebacks: crash reporters print them, and send them away."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import PurePath
from types import TracebackType
from typing import Any, TypeVar, cast

from .errors import FapilogError

__all__ = ["without_frames"]

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


def without_frames(function: F) -> F:
    """
    Have *function* raise its exceptions, and those behind them, with the frames of its caller alone.

    It is for functions that deal with secrets or records as plain text. Their frames, and those of the libraries that
    they call, can't be told from others by a crash reporter. Our errors say in their text what there is to know; any
    other exception gets a note with the file and the line that it came from. A cancellation loses its frames too, since
    a `TimeoutError` may be raised from it. An exception that the caller was handling already stays as it is.
    """

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        handled = sys.exception()
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            for each in _behind(error, handled):
                if isinstance(each, Exception) and not isinstance(each, FapilogError):
                    _note_place(each)
                each.__traceback__ = None
            # Raised again as it is, without this frame.
            raise

    return cast("F", call)


def _behind(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    """Yield *error* and the exceptions behind it, but for *handled* and those behind that."""
    waiting: list[BaseException | None] = [error]
    seen = {id(None), id(handled)}
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]
            if isinstance(each, BaseExceptionGroup):
                waiting += each.exceptions


def _note_place(error: Exception) -> None:
    trace: TracebackType | None = error.__traceback__
    if trace is None or getattr(error, "__notes__", None):
        return
    while trace.tb_next is not None:
        trace = trace.tb_next
    error.add_note(f"raised in {PurePath(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}")
