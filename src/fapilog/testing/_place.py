"""A place where a storage keeps its records, and the checks of every call of a storage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, NoReturn, TypeVar

import anyio
import msgspec

from ..record import chain
from ..record.chain import EMPTY, AuditChainVerificationResult, ChainError, Seal
from ..record.damage import DamagedRecord
from ..record.events import AuditEvent
from ..record.formats import decoded
from ..record.values import kind_of
from ..storage.protocol import AuditStorage, EventFilter, head_of
from ..tasks.strangers import contained
from ._contract import Cancelled

__all__ = ["MOST_WAITS", "Place"]

T = TypeVar("T")

MOST_WAITS: Final = 50
"""If a call waits more often, it is cancelled at the first waits alone."""

_PAGE: Final = 25


class Place:
    """A place for the records of one clause, the storages that are made for it, and the checks of their calls."""

    def __init__(self, make: Callable[[str], AuditStorage], name: str, timeout: float) -> None:
        self.name = name
        self.timeout = timeout
        self._make = make
        self._made: list[AuditStorage] = []

    def open(self) -> AuditStorage:
        """Return an object for the place."""
        self._made.append(self._make(self.name))
        return self._made[-1]

    async def close(self) -> None:
        """Close all objects."""
        for storage in self._made:
            await self.ask("aclose", storage.aclose)

    async def ask(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of *call*; fail if it raises, or takes too long."""
        with anyio.move_on_after(self.timeout):
            try:
                with contained():
                    return await call()
            except Exception as error:
                raise AssertionError(f"{what} should return; it raised {type(error).__qualname__}: {error}") from error
        raise AssertionError(f"{what} should return within {self.timeout:g} s")

    async def cancelled(self, what: str, call: Coroutine[Any, Any, object], wait: int) -> bool:
        """Cancel *call* where it waits for the time with that number; return whether it was over before that."""
        cancelled = Cancelled(call, wait)
        error = await cancelled.run(self.timeout)
        if error is not None:
            raise AssertionError(
                f"{what} should let a cancellation pass; it raised {type(error).__qualname__}"
            ) from error
        if cancelled.deaf:
            raise AssertionError(f"{what} should end within {self.timeout:g} s when it is cancelled")
        if cancelled.told and not cancelled.scope.cancelled_caught:
            raise AssertionError(f"{what} should let a cancellation pass, and not return as if nothing had happened")
        return not cancelled.scope.cancel_called

    def fail(self, expected: str) -> NoReturn:
        """Raise an AssertionError with the *expected* behaviour of a call."""
        raise AssertionError(expected)

    async def append(self, storage: AuditStorage, event: AuditEvent) -> Seal:
        """Append *event*, and return its seal; fail if the event is changed."""
        given = msgspec.json.encode(event)
        seal = await self.ask("append", lambda: storage.append(event))
        if msgspec.json.encode(event) != given:
            # The trail alerts about the same object.
            self.fail("append should leave the event as it is")
        if not isinstance(seal, Seal):
            self.fail(f"append should return a Seal; it returned {kind_of(seal)}")
        return seal

    async def append_once(self, storage: AuditStorage, event: AuditEvent) -> Seal | None:
        """Append *event* if its id is not there."""
        seal: Any = await self.ask("append with once", lambda: storage.append(event, once=True))
        if seal is not None and not isinstance(seal, Seal):
            self.fail(f"append with once should return a Seal or None; it returned {kind_of(seal)}")
        return seal

    async def fill(self, storage: AuditStorage, events: Sequence[AuditEvent]) -> list[AuditEvent]:
        """Append *events* one after the other, and return them with their seals."""
        return [chain.sealed(event, await self.append(storage, event)) for event in events]

    async def fill_without_loop(self, storage: AuditStorage, events: Sequence[AuditEvent]) -> list[AuditEvent]:
        """Do as `fill` in a thread without an event loop, where nothing can limit the time."""
        try:
            seals = [await storage.append(event) for event in events]
        except Exception as error:
            raise AssertionError(
                f"a storage that runs_anywhere should need no event loop; append raised"
                f" {type(error).__qualname__}: {error}"
            ) from error
        return [chain.sealed(event, seal) for event, seal in zip(events, seals, strict=True) if seal is not None]

    async def find(self, storage: AuditStorage, wanted: EventFilter, limit: int) -> list[AuditEvent]:
        """Find events."""
        return self._events("find", await self.ask("find", lambda: storage.find(wanted, limit)))

    async def read(self, storage: AuditStorage, after: int, limit: int) -> list[AuditEvent]:
        """Read a page of events."""
        return self._events("read", await self.ask("read", lambda: storage.read(after, limit)))

    def _events(self, what: str, found: Any) -> list[AuditEvent]:
        if not isinstance(found, Sequence):
            self.fail(f"{what} should return a sequence; it returned {kind_of(found)}")
        for item in found:
            if not isinstance(item, AuditEvent | DamagedRecord):
                self.fail(f"{what} should return events; it returned {kind_of(item)} among them")
        return list(found)

    async def read_lines(self, storage: AuditStorage, after: int, limit: int) -> list[bytes]:
        """Read a page of lines."""
        lines: Any = await self.ask("read_lines", lambda: storage.read_lines(after, limit))
        if not isinstance(lines, list):
            self.fail(f"read_lines should return a list; it returned {kind_of(lines)}")
        for line in lines:
            if not isinstance(line, bytes):
                self.fail(f"read_lines should return bytes; it returned {kind_of(line)} among them")
            if b"\n" in line:
                self.fail("read_lines should return lines without a newline")
        return lines

    async def verify(self, storage: AuditStorage) -> AuditChainVerificationResult:
        """Verify the chain."""
        result: Any = await self.ask("verify", storage.verify)
        if not isinstance(result, AuditChainVerificationResult):
            self.fail(f"verify should return an AuditChainVerificationResult; it returned {kind_of(result)}")
        return result

    async def all(self, storage: AuditStorage) -> list[AuditEvent]:
        """Return all events, the oldest first, after checking that they make a chain."""
        events: list[AuditEvent] = []
        lines: list[bytes] = []
        while page := await self.read(storage, len(events), _PAGE):
            events += page
            lines += await self.read_lines(storage, len(lines), len(page))
        # A hole has none, though it should not be there.
        numbers = [getattr(event, "sequence_number", None) for event in events]
        if numbers != list(range(1, len(events) + 1)):
            raise AssertionError(f"the numbers should count from 1 without gaps; they are {numbers}")
        try:
            head = chain.follow(EMPTY, lines)
        except ChainError as error:
            raise AssertionError(f"the lines of read_lines should make a chain; {error}") from error
        if [decoded(line) for line in lines] != events:
            raise AssertionError("read_lines should give the lines of the events that read gives")
        if head != await self.ask("find", lambda: head_of(storage)):
            raise AssertionError("the newest event that is found should be the last one that is read")
        result = await self.verify(storage)
        if not result.valid or result.events_checked != len(events):
            raise AssertionError(
                f"verify should find {len(events)} valid records; it says valid={result.valid},"
                f" events_checked={result.events_checked}, {result.error_message}"
            )
        return events

    async def require(self, storage: AuditStorage, expected: Sequence[AuditEvent]) -> None:
        """Fail if *expected*, in the order of their numbers, are not all that is in the chain."""
        events = await self.all(storage)
        expected = sorted(expected, key=lambda event: event.sequence_number or 0)
        if [event.event_id for event in events] != [event.event_id for event in expected]:
            raise AssertionError(
                f"each event should be there once, in the place that append returned; {len(expected)} were"
                f" appended, and {len(events)} are there"
            )
        for event, found in zip(expected, events, strict=True):
            if event != found:
                changed = [name for name in event.__struct_fields__ if getattr(event, name) != getattr(found, name)]
                raise AssertionError(
                    f"an event should be there as it was appended, and not with another {' and '.join(changed)}"
                )
