"""A call that interrupts a thread between two lines, as a signal handler or a destructor does."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["interrupted_at"]


@contextmanager
def interrupted_at(number: int, place: Path, call: Callable[[], object]) -> Iterator[None]:
    """Make *call* before the line of that *number* that this thread runs in the file or the directory *place*."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(str(place)):
            return None
        left -= event == "line"
        if not left:
            left = -1
            call()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
