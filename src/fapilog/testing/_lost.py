"""The clauses about appends whose answer is lost: the caller is cancelled, or its process is killed."""

from __future__ import annotations

import pickle
import pickletools
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import anyio
from anyio.abc import Process

from ..record.events import AuditEvent
from ..storage.protocol import AuditStorage
from ..tasks.loops import Loop
from ._appending import BEGUN, STORED
from ._place import MOST_WAITS, Place
from ._questions import an_event_with

__all__ = ["finds_lost_answers", "require_picklable", "survives_kills"]

# A process is killed when so many of its appends have returned.
_KILLED_AFTER: Final = (1, 8, 40)
_SCRIPT: Final = "import sys; sys.path[:] = {path!r}; from fapilog.testing._appending import main; main()"


def require_picklable(name: str, make: Callable[[str], AuditStorage]) -> Callable[[str], AuditStorage]:
    """Return *make* if another process can get it; raise TypeError, whose message begins with *name*, if not."""
    try:
        pickled = pickle.dumps(make)
    except Exception as error:
        words = f"expected a function that can be pickled; got {type(error).__qualname__}: {error}"
        raise TypeError(f"{name}: {words}") from None
    if any(argument == "__main__" for _, argument, _ in pickletools.genops(pickled)):
        raise TypeError(f"{name}: expected a function of a module that another process can import; got one of __main__")
    return make


async def finds_lost_answers(place: Place) -> None:
    """Check that an append which was cancelled, and is made again with its id, is there once."""
    storage = place.open()
    events: list[AuditEvent] = []
    for wait in range(MOST_WAITS):
        events.append(an_event_with("the answer was lost"))
        is_over = await place.cancelled("append", storage.append(events[-1], once=True), wait)
        await place.append_once(storage, events[-1])
        if is_over:
            break
    found = [event.event_id for event in await place.all(storage)]
    _require_once("whose append was cancelled", {event.event_id for event in events}, found)


async def survives_kills(make: Callable[[str], AuditStorage], place: Place) -> None:
    """Check that a process which is killed takes nothing with it that it has stored, and leaves a chain."""
    stored: set[str] = set()
    unknown: set[str] = set()
    for count in _KILLED_AFTER:
        told = await _killed(make, place, count)
        stored |= told.stored
        unknown |= told.begun - told.stored
        storage = place.open()
        # Each is appended again at the first opportunity, as by a caller who can't know what became of it.
        for event_id in told.begun - told.stored:
            await place.append_once(storage, an_event_with("before the process is killed", event_id=event_id))
    found = [event.event_id for event in await place.all(place.open())]
    _require_once("whose append returned before the process was killed", stored, found)
    _require_once("whose append was under way when the process was killed", unknown, found)
    if stored | unknown != set(found):
        raise AssertionError("only events that were appended should be there after a process was killed")


def _require_once(which: str, expected: set[str], found: list[str]) -> None:
    missing, twice = expected - set(found), {each for each in expected if found.count(each) > 1}
    if missing or twice:
        raise AssertionError(
            f"every event {which} should be there once, when it is appended again with once where that is unknown;"
            f" of {len(expected)}, {len(missing)} are not there, and {len(twice)} more than once"
        )


class _Told(NamedTuple):
    begun: set[str]
    stored: set[str]


async def _killed(make: Callable[[str], AuditStorage], place: Place, count: int) -> _Told:
    """Append in another process, kill it when *count* appends have returned, and return all that it told."""
    backend = "asyncio" if Loop.current().is_asyncio else "trio"
    told = ""
    async with await anyio.open_process(
        [sys.executable, "-c", _SCRIPT.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
    ) as process:
        try:
            assert process.stdin is not None  # noqa: S101 - a pipe
            await process.stdin.send(pickle.dumps((make, place.name, backend)))
            while told.count(STORED) < count:
                told += await _next(process, place, has_begun=bool(told))
            process.kill()
            while True:
                told += await _next(process, place, has_begun=True)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    # A line that was cut off is none of a process that writes each in one piece.
    lines = [line.split() for line in told.splitlines()]
    if sum(word == STORED for word, _ in lines) < count:
        raise AssertionError("append should return in another process; that ended by itself, see its standard error")
    return _Told(*({event_id for word, event_id in lines if word == wanted} for wanted in (BEGUN, STORED)))


async def _next(process: Process, place: Place, *, has_begun: bool) -> str:
    """Return the next words of *process*, which may take its time to start, and no longer than a call for others."""
    assert process.stdout is not None  # noqa: S101 - a pipe
    with anyio.move_on_after(place.timeout if has_begun else None):
        return (await process.stdout.receive()).decode()
    raise AssertionError(f"append should return within {place.timeout:g} s, in another process too")
