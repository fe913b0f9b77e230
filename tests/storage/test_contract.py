"""Our own storages against the contract, and the check of it against storages that break it."""

import contextlib
import functools
import itertools
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from msgspec import to_builtins
from msgspec.structs import force_setattr, replace

from fapilog import AuditEvent
from fapilog.record import chain
from fapilog.record.chain import AuditChainVerificationResult, ChainHead
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import EventFilter
from fapilog.testing import _storage, check_storage
from fapilog.testing._questions import questions_about, searched_events
from tests.doubles.storages import in_files, in_memory, in_sqlite

pytestmark = pytest.mark.real_time


@pytest.mark.slow
@pytest.mark.one_backend
async def test_the_storage_in_memory_keeps_the_contract() -> None:
    """A `MemoryStorage` passes."""
    make = functools.cache(lambda _: MemoryStorage())

    def damage(place: str) -> None:
        lines = make(place)._lines
        lines[3] = lines[3].replace(b'"3"', b'"x"')

    await check_storage(make, damage=damage)


@pytest.mark.slow
async def test_the_storage_in_files_keeps_the_contract(tmp_path: Path) -> None:
    """A `FileStorage` passes."""

    def damage(place: str) -> None:
        [file] = (tmp_path / place).glob("audit_*.jsonl")
        file.write_bytes(file.read_bytes().replace(b'"3"', b'"x"'))

    make = functools.partial(in_files, tmp_path)
    await check_storage(make, damage=damage, elsewhere=make)


@pytest.mark.slow
async def test_the_storage_in_sqlite_keeps_the_contract(tmp_path: Path) -> None:
    """A `SQLiteStorage` passes."""

    def damage(place: str) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / place)) as connection, connection:
            connection.execute("UPDATE records SET line = CAST(replace(line, '\"3\"', '\"x\"') AS BLOB)")

    make = functools.partial(in_sqlite, tmp_path)
    await check_storage(make, damage=damage, elsewhere=make)


class Altering(MemoryStorage):
    """Stores a text without its spaces."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        return await super().append(replace(event, message=event.message.strip()), once=once)


class Restarting(MemoryStorage):
    """Gives every event the first place."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        return chain.seal(chain.body(event), 1, None)[1]


class Racing(MemoryStorage):
    """Looks at the head, and lets others run before it stores."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        head = chain.follow(chain.head_before(self._lines[-1]), self._lines[-1:]) if self._lines else chain.EMPTY
        await anyio.lowlevel.checkpoint()
        line, seal = chain.seal(chain.body(event), head.sequence_number + 1, head.checksum)
        self._lines.append(line.removesuffix(b"\n"))
        return seal


class Repeating(MemoryStorage):
    """Does not look whether an id is there."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        return await super().append(event)


class Overlooking(MemoryStorage):
    """Looks whether an id is there, and lets others run before it stores."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        if once and event.event_id in self._ids:
            return None
        await anyio.lowlevel.checkpoint()
        return await super().append(event)


class Backwards(MemoryStorage):
    """Reads the newest first."""

    async def read(self, after: int, limit: int) -> list[Any]:
        return (await super().read(after, limit))[::-1]


class Endless(MemoryStorage):
    """Reads more than was asked for."""

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        return await super().read_lines(after, max(limit, 10))


class WithNewlines(MemoryStorage):
    """Gives lines with their newlines."""

    async def read(self, after: int, limit: int) -> list[Any]:
        return self.events[after : after + limit]

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        return [line + b"\n" for line in await super().read_lines(after, limit)]


class Viewing(MemoryStorage):
    """Gives lines as its driver does."""

    async def read_lines(self, after: int, limit: int) -> Any:
        return [memoryview(line) for line in await super().read_lines(after, limit)]


class Freezing(MemoryStorage):
    """Gives lines as a tuple."""

    async def read_lines(self, after: int, limit: int) -> Any:
        return tuple(await super().read_lines(after, limit))


class Plain(MemoryStorage):
    """Gives events as they are in JSON."""

    async def read(self, after: int, limit: int) -> list[Any]:
        return [to_builtins(event) for event in await super().read(after, limit)]


class Short(MemoryStorage):
    """Says only whether the chain is valid."""

    async def verify(self, progress: Callable[[int], None] | None = None) -> Any:
        return (await super().verify(progress)).valid


class Shouting(MemoryStorage):
    """Stores a text in capitals, and puts it into the event of the caller too."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        force_setattr(event, "message", event.message.upper())
        return await super().append(event, once=once)


class Deciding(MemoryStorage):
    """Says whether it has stored the event, and not where."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        seal = await super().append(event, once=once)
        return seal is not None if once else seal


class Oldest(MemoryStorage):
    """Finds the oldest instead of the newest."""

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        found = await super().find(wanted, len(self._lines))
        return found[:limit] if wanted == EventFilter() else found[-limit:]


class Deaf(MemoryStorage):
    """Ignores a condition."""

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        return await super().find(replace(wanted, tag=None), limit)


class Folding(MemoryStorage):
    """Takes ids for the same whose letters differ in case alone, as some databases do."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        if once and event.event_id.lower() in {event_id.lower() for event_id in self._ids}:
            return None
        return await super().append(event, once=once)


class Padding(MemoryStorage):
    """Takes users for the same whose names end in more spaces, as some databases do."""

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        user = None if wanted.user_id is None else wanted.user_id.rstrip()
        return await super().find(replace(wanted, user_id=user), limit)


class Alike(MemoryStorage):
    """Takes an underscore for any character, as LIKE does."""

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        words = re.escape(wanted.message or "").replace("_", ".")
        found: list[Any] = await super().find(replace(wanted, message=None), len(self._lines))
        return [event for event in found if re.search(words, event.message)][:limit]


class Overflowing(MemoryStorage):
    """Takes numbers of 64 bits alone."""

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        (wanted.after or 0).to_bytes(8, signed=True)
        return await super().find(wanted, limit)


class Iterating(MemoryStorage):
    """Returns no sequence."""

    async def read(self, after: int, limit: int) -> Any:
        return iter(await super().read(after, limit))


class Hiding(MemoryStorage):
    """Leaves a damaged record out."""

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        return [each for each in await super().find(wanted, limit) if isinstance(each, AuditEvent)]


class Choking(MemoryStorage):
    """Can't read anything where a record is damaged."""

    async def read(self, after: int, limit: int) -> list[Any]:
        return self.events[after : after + limit]


class Ending(MemoryStorage):
    """Gives the lines up to a damaged one."""

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        lines = await super().read_lines(after, limit)
        return list(itertools.takewhile(lambda line: line.startswith(b"{"), lines))


class Hasty(MemoryStorage):
    """Begins questions for later events too late."""

    async def last_before(self, time: datetime) -> int:
        return sum(event.timestamp < time for event in self.events)


class Stumbling(MemoryStorage):
    """Has the last event of a page in the next one again."""

    async def page_from(self, place: Any, wanted: EventFilter, limit: int, *, oldest_first: bool) -> Any:
        found = await super().find(wanted, len(self._lines))
        found = (found[::-1] if oldest_first else found)[place or 0 :]
        return found[:limit], None if len(found) <= limit else (place or 0) + limit - 1


class Greedy(MemoryStorage):
    """Takes lines wherever it ends."""

    async def append_lines(self, after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
        if self._lines and after == chain.EMPTY:
            return after
        return await super().append_lines(after, lines)


class Unasked(MemoryStorage):
    """Does not find by their type the events that were copied."""

    copied = 0

    async def append_lines(self, after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
        head = await super().append_lines(after, lines)
        self.copied = head.sequence_number
        return head

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        found: list[Any] = await super().find(wanted, limit)
        return [each for each in found if wanted.event_type is None or each.sequence_number > self.copied]


class Trusting(MemoryStorage):
    """Finds every chain valid."""

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        if progress is not None:
            progress(len(self._lines))
        return AuditChainVerificationResult(valid=True, events_checked=len(self._lines))


class Silent(MemoryStorage):
    """Tells nothing of its progress."""

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        return await super().verify()


class Flattening(MemoryStorage):
    """Loses the metadata of the events that are found."""

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        return [replace(event, metadata={}) for event in await super().find(wanted, limit)]


class Suspicious(MemoryStorage):
    """Finds nothing valid where nothing is."""

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        result = await super().verify(progress)
        return replace(result, valid=bool(self._lines))


class Swallowing(MemoryStorage):
    """Stores an event, and returns, also where it is cancelled."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        with contextlib.suppress(anyio.get_cancelled_exc_class()):
            await anyio.lowlevel.checkpoint()
        with anyio.CancelScope(shield=True):
            return await super().append(event, once=once)


class Stuck(MemoryStorage):
    """Never stores anything again after a cancellation."""

    stuck = False

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        if self.stuck:
            await anyio.sleep_forever()
        try:
            return await super().append(event, once=once)
        except anyio.get_cancelled_exc_class():
            self.stuck = True
            raise


class Twice(MemoryStorage):
    """Stores an event again where it is cancelled."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        try:
            with anyio.CancelScope(shield=True):
                seal = await super().append(event, once=once)
            await anyio.lowlevel.checkpoint()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await super().append(event)
            raise
        return seal


class Hanging(MemoryStorage):
    """Never finds anything where it is cancelled."""

    async def find(self, wanted: EventFilter, limit: int) -> list[Any]:
        found = await super().find(wanted, limit)
        while True:
            try:
                await anyio.lowlevel.checkpoint()
                return found
            except anyio.get_cancelled_exc_class():
                continue


class Claiming(MemoryStorage):
    """Notes that an id is there, and lets others run before it stores the event."""

    def __init__(self) -> None:
        super().__init__()
        self._claimed: set[str] = set()

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        if event.event_id in self._claimed:
            return None
        self._claimed.add(event.event_id)
        await anyio.lowlevel.checkpoint()
        return await super().append(event)


class AtHome(MemoryStorage):
    """Works in one thread alone."""

    def __init__(self) -> None:
        super().__init__()
        self._home = threading.get_ident()

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        if self._home != threading.get_ident():
            raise RuntimeError("another thread")
        return await super().append(event, once=once)


class Boasting(MemoryStorage):
    """Needs a loop, and says that it does not."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        await anyio.lowlevel.checkpoint()
        return await super().append(event, once=once)


class Forgetful(MemoryStorage):
    """Loses everything when it is closed."""

    async def aclose(self) -> None:
        self._lines.clear()


class Closed(MemoryStorage):
    """Can't be used again after it was closed."""

    async def aclose(self) -> None:
        self._turn = None  # type: ignore[assignment]


BROKEN: list[tuple[type[MemoryStorage], str]] = [
    (Altering, "append: an event should be there as it was appended, and not with another message"),
    (Restarting, "append: append should return sequence_number 2, and the checksum"),
    (Racing, "group: each event should be there once|group: the lines of read_lines should make a chain"),
    (Repeating, "once: append with once should return None"),
    (Overlooking, "once: append with once should store an event once; of 8 at once 8 did"),
    (Folding, "once: append with once should store .* not there; it took 'ID' for another"),
    (Padding, "search: find with user_id='al ' and limit 40 should return records ..; it returned .34, "),
    (Alike, "search: find with message='message_1' and limit 40 should return records ..; it returned .20, "),
    (Overflowing, "search: find should return; it raised OverflowError"),
    (Iterating, "append: read should return a sequence; it returned a list_iterator"),
    (Hiding, "damage: where one record was changed, find should return .* it returned .1, 2, 3, 5, 6, 7, 8."),
    (Choking, "damage: read should return; it raised DecodeError"),
    (Ending, "damage: where one record was changed, read_lines should return each other line; it returned 3"),
    (Hasty, "last_before: .* no record has that time or a later one; it returned [0-9]+, and record [0-9]+ has one"),
    (Stumbling, "page_from: the pages of page_from with oldest_first=False should have each wanted event once"),
    (Greedy, "append_lines: append_lines should raise AuditStorageError .*; it took one after record 0"),
    (Unasked, "append_lines: of copied records, find should return records .70, 65, .*; it returned ..$"),
    (Backwards, "append: the numbers should count from 1 without gaps; they are .25, 24"),
    (Endless, "read: read_lines.0, 0. should return"),
    (WithNewlines, "append: read_lines should return lines without a newline"),
    (Viewing, "append: read_lines should return bytes; it returned a memoryview among them"),
    (Freezing, "append: read_lines should return a list; it returned a tuple"),
    (Plain, "append: read should return events; it returned a dict among them"),
    (Short, "append: verify should return an AuditChainVerificationResult; it returned a bool"),
    (Shouting, "append: append should leave the event as it is"),
    (Deciding, "once: append with once should return a Seal or None; it returned a bool"),
    (Oldest, "search: find with metadata={} and limit 1 should return records .40.; it returned .1."),
    (Deaf, "search: find with tag='PCI' and limit 40 should return records .40, 38, 37"),
    (Flattening, "count: of the events that find returns, the shares by metadata.http.status should be"),
    (Suspicious, "append: verify should find 0 valid records"),
    (Silent, "verify: verify should tell progress how many were checked, 8 in the end; it told .."),
    (Trusting, "damage: verify should say that a chain is not valid whose record was changed, and why"),
    (Swallowing, "cancel: append should let a cancellation pass, and not return"),
    (Stuck, "cancel: append should return within"),
    (Twice, "cancel: an append that was cancelled should be stored or not, and not twice"),
    (Hanging, "cancel: find should end within"),
    (Claiming, "ambiguity: every event whose append was cancelled should be there once, .*; of 3, 2 are not there"),
    (AtHome, "threads: .* RuntimeError: another thread"),
    (Boasting, "threads: a storage that runs_anywhere should need no event loop"),
    (Forgetful, "reopen: each event should be there once, .* 3 were appended, and 0 are there"),
    (Closed, "reopen: append should return; it raised"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("kind", "says"), BROKEN, ids=[kind.__name__ for kind, _ in BROKEN])
async def test_a_storage_that_breaks_the_contract_is_found(
    monkeypatch: pytest.MonkeyPatch, kind: type[MemoryStorage], says: str
) -> None:
    """Each clause fails the storage that breaks it, and says what was expected."""
    # The clauses before it take most of the time, and pass.
    clauses = [each for each in _storage._CLAUSES if says.startswith(each[0])]
    monkeypatch.setattr(_storage, "_CLAUSES", tuple(clauses))
    make = functools.cache(lambda _: kind())

    def damage(place: str) -> None:
        lines = make(place)._lines
        lines[3] = lines[3][::-1]

    with pytest.raises(AssertionError, match=f"^({says})"):
        await check_storage(make, damage=damage, timeout=2.0)


@pytest.fixture
def only_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the clause "crash" alone."""
    monkeypatch.setattr(_storage, "_CLAUSES", ())


@pytest.mark.slow_on_trio
@pytest.mark.usefixtures("only_crashes")
async def test_a_process_that_is_killed_may_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that forgets with its process what it has stored is found, and so is one that another can't make."""
    make = functools.partial(in_files, tmp_path)
    words = r"crash: every event whose append returned before the process was killed should be there once.* 0 more than"
    with pytest.raises(AssertionError, match=words):
        await check_storage(make, elsewhere=in_memory)
    with pytest.raises(AssertionError, match=r"^crash: append should return in another process; that ended by itself"):
        await check_storage(make, elsewhere=functools.partial(in_files, "no path"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^elsewhere: expected a function that can be pickled; got "):
        await check_storage(make, elsewhere=lambda place: in_files(tmp_path, place))
    script: dict[str, Any] = {"__name__": "__main__"}
    exec("def storage_at(place): ...", script)  # noqa: S102
    monkeypatch.setattr(sys.modules["__main__"], "storage_at", script["storage_at"], raising=False)
    with pytest.raises(TypeError, match=r"^elsewhere: expected a function of a module .*; got one of __main__$"):
        await check_storage(make, elsewhere=script["storage_at"])


@pytest.mark.parametrize("condition", EventFilter.__struct_fields__)
def test_every_condition_is_asked_for(condition: str) -> None:
    """Whichever condition a storage ignores, some question has another answer."""
    events = [chain.sealed(event, chain.Seal(number, None, "")) for number, event in enumerate(searched_events(40), 1)]

    def answer(wanted: EventFilter) -> list[Any]:
        return [event for event in events if wanted.matches(event)]

    wanted = [EventFilter(**asked) for asked in questions_about(events)]
    assert [each for each in wanted if answer(each) != answer(replace(each, **{condition: None}))]
