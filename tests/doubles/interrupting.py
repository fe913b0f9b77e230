"""A call that interrupts a thread between two lines, as a signal handler or a destructor does."""

import dis
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["interrupted_at", "interruptions", "moments", "traced"]

# Behind these Python looks whether a signal has come: https://github.com/python/cpython/issues/97912
_LOOKS = {dis.opmap.get(name) for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME")} - {None}


@contextmanager
def interrupted_at(number: int, place: Path, call: Callable[[], object]) -> Iterator[None]:
    """Make *call* before the line of that *number* that this thread runs in the file or the directory *place*."""
    left, ours = number, str(place)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(ours):
            return None
        left -= event == "line"
        if not left:
            left = -1
            call()
        return trace

    with traced(trace):
        yield


def interruptions(place: Path, error: type[BaseException]) -> Iterator[tuple[int, AbstractContextManager[None]]]:
    """
    Yield a block for each line that is run in *place*, with its number: the block raises *error* before that line.

    Ends behind the first block that has too few lines.
    """
    number, is_reached = 0, True

    def interrupt() -> None:
        nonlocal is_reached
        is_reached = True
        raise error

    while is_reached:
        number, is_reached = number + 1, False
        yield number, interrupted_at(number, place, interrupt)


def moments(place: Path, error: Callable[[], BaseException]) -> Iterator[AbstractContextManager[None]]:
    """
    Yield a block for each moment at which a thread may run a signal handler in *place*: it raises *error* there.

    Ends behind the second block in a row that has too few: of a function that it traces for the first time, Python 3.13
    has no events.
    """
    number, missed, is_reached = 1, 0, False

    def reach() -> BaseException:
        nonlocal is_reached
        is_reached = True
        return error()

    while missed < 2:
        is_reached = False
        yield _raising_at(number, place, reach)
        number, missed = (number + 1, 0) if is_reached else (number, missed + 1)


@contextmanager
def _raising_at(number: int, place: Path, error: Callable[[], BaseException]) -> Iterator[None]:
    """Raise *error* at the moment of that *number* at which this thread may run a signal handler in *place*."""
    left, ours = number, str(place)
    before: dict[FrameType, int | None] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(ours):
            return None
        if event == "call":
            frame.f_trace_opcodes = True
            # Python looks when it enters the function, and not again when it returns from that.
            before[frame] = None
            if frame.f_back in before:
                before[frame.f_back] = None
        elif event == "opcode":
            left -= before[frame] in _LOOKS
            before[frame] = frame.f_code.co_code[frame.f_lasti]
            if not left:
                left = -1
                raise error()
        elif event == "return":
            before.pop(frame, None)
        return trace

    with traced(trace):
        yield


@contextmanager
def traced(trace: Callable[[FrameType, str, Any], Any]) -> Iterator[None]:
    """Trace this thread, and not the destructors of what earlier tests have left to the collector."""
    before, collects = sys.gettrace(), gc.isenabled()
    # Before the call: Python 3.12 has no events of opcodes otherwise. https://github.com/python/cpython/issues/103615
    sys._getframe().f_trace_opcodes = True
    gc.disable()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
