"""The chain in memory: for tests, and for events that need not outlive their process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, overload

import anyio.lowlevel

from ..record import chain
from ..record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainHead, Seal
from ..record.damage import DamagedRecord
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.formats import decoded
from ..record.privacy import Uncopied, without_frames
from ..tasks.fork import call_in_child
from ..tasks.loops import is_without_loop
from ..tasks.threads import Turn
from ._holes import item_of, joined, up_to
from ._verdicts import verdict_on
from .copying import elsewhere, events_of, followed
from .protocol import EventFilter

__all__ = ["MemoryStorage"]

# Records that are checked between two calls of `progress`.
_CHECKED_AT_ONCE: Final = 500


class MemoryStorage(Uncopied):
    """
    The chain as the lines that a file would hold, in memory, for any thread and any event loop.

    It keeps the bytes that `FileStorage` keeps, and checks them in the same way. A forked child continues with a copy
    of its own. `aclose` closes nothing: the events stay as long as the object.
    """

    #: No method waits for an event loop.
    runs_anywhere = True

    def __init__(self) -> None:
        # The newest line has the head of the chain, so that one call into C stores a record whole.
        self._lines: list[bytes] = []
        self._ids: set[str] = set()
        self._turn = Turn("not stored: called from within a call of the same thread")
        call_in_child(self, MemoryStorage._forget)

    def __repr__(self) -> str:
        return f"<MemoryStorage with {len(self._lines)} events>"

    @property
    def events(self) -> list[AuditEvent]:
        """The stored events, the oldest first."""
        return [decoded(line) for line in tuple(self._lines)]

    @overload
    async def append(self, event: AuditEvent, *, once: Literal[False] = False) -> Seal: ...
    @overload
    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None: ...

    @without_frames
    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        """
        Store *event* as the next of the chain.

        A caller that is cancelled has stored nothing.

        Args:
            event: The event.
            once: Whether to store it only if no record has its id.

        Returns:
            Its place in the chain; None if *once* and a record has its id already.

        Raises:
            AuditStorageError: It is not stored: the newest record is damaged, the record would be longer than
                `MAX_RECORD_BYTES`, or this is called by a signal handler in the midst of an append of the same thread.
        """
        body = chain.body_to_store(event)
        await _checkpoint()
        with self._turn.taken():
            if once and event.event_id in self._ids:
                return None
            head = _head(self._lines)
            line, seal = chain.seal(body, head.sequence_number + 1, head.checksum)
            self._lines.append(line.removesuffix(b"\n"))
            self._ids.add(event.event_id)
            return seal

    @without_frames
    async def append_lines(self, after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
        """
        Append records as they are, as `FileStorage.append_lines` does, and raise as that does.

        Args:
            after: The head that the first of them follows.
            lines: The records, without their newlines.
        """
        await _checkpoint()
        head = followed("memory", after, lines)
        with self._turn.taken():
            if _head(self._lines) != after:
                raise elsewhere("memory", after)
            self._ids.update(event.event_id for event in events_of(lines))
            self._lines.extend(lines)
        return head

    @without_frames
    async def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent | DamagedRecord]:
        """Return the newest *limit* wanted events, the newest first, and the holes between them."""
        await _checkpoint()
        behind = len(self._lines) + 1 if wanted.before is None else min(len(self._lines) + 1, wanted.before)
        numbers = range(behind - 1, max(0, wanted.after or 0), -1)
        items = (_item(number, self._lines[number - 1]) for number in numbers)
        wanted_items = (item for item in items if isinstance(item, DamagedRecord) or wanted.matches(item))
        return list(up_to(limit, joined(wanted_items)))

    @without_frames
    async def read(self, after: int, limit: int) -> list[AuditEvent | DamagedRecord]:
        """Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first."""
        await _checkpoint()
        items = (_item(number, self._lines[number - 1]) for number in range(max(0, after) + 1, len(self._lines) + 1))
        return list(up_to(limit, joined(items)))

    @without_frames
    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        """Do as `read`, and return the records as they are stored, without a newline."""
        await _checkpoint()
        begin = max(0, after)
        return self._lines[begin : begin + max(0, limit)]

    @without_frames
    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Check the whole chain; damage is returned, not raised."""
        await _checkpoint()
        return verdict_on("in memory", _heads(iter(tuple(self._lines))), progress)

    async def aclose(self) -> None:
        """Keep everything."""

    def _forget(self) -> None:
        # In a forked child.
        self._turn.forget()


def _heads(lines: Iterator[bytes]) -> Iterator[ChainHead]:
    head = EMPTY
    while page := tuple(itertools.islice(lines, _CHECKED_AT_ONCE)):
        head = chain.follow(head, page)
        yield head


def _item(number: int, line: bytes) -> AuditEvent | DamagedRecord:
    return item_of(line, file="memory", offset=number, size=1, number=number)


def _head(lines: list[bytes]) -> ChainHead:
    """Return the head of the chain, after checking its record."""
    if not lines:
        return EMPTY
    try:
        return chain.follow(chain.head_before(lines[-1]), lines[-1:])
    except ChainError as damage:
        raise AuditStorageError(f"in memory: {damage}; nothing is appended") from damage


async def _checkpoint() -> None:
    if not is_without_loop():
        await anyio.lowlevel.checkpoint()
