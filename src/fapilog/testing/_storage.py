"""A check of any storage against the contract of `AuditStorage`."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec

from ..core.audit import AuditTrail
from ..record import chain
from ..record.chain import Seal
from ..record.events import AuditEvent
from ..record.formats import decoded
from ..storage.protocol import AuditStorage, EventFilter
from ..tasks.loops import without_loop
from ._contract import at_once
from ._lost import finds_lost_answers, require_picklable, survives_kills
from ._optional import knows_the_last_before, pages_from_places, takes_lines
from ._place import MOST_WAITS, Place
from ._questions import COUNTS_OF_SEARCHED, an_event_with, events_of_all_kinds, questions_about, searched_events

__all__ = ["check_storage"]


async def check_storage(
    make: Callable[[str], AuditStorage],
    *,
    damage: Callable[[str], object] | None = None,
    elsewhere: Callable[[str], AuditStorage] | None = None,
    timeout: float = 10.0,
) -> None:
    r"""
    Check that a storage keeps the contract of `AuditStorage`; return if it does.

    Every clause has a name, which a failure begins with:

    - *append*: an appended event is there as it was given, in its place, whatever text is in it, and the given object
      is not changed; the numbers count from 1 without gaps, and a record has the checksum of the record before it.
    - *group*: calls at once get different places.
    - *once*: with ``once=True``, an event whose id is there is not stored again, and None is returned, also if it comes
      many times at once. An id that differs from others in one character, of any kind and in any place, is another.
    - *read*: `read` pages through the chain, the oldest first; `read_lines` gives the bytes of the same records,
      without a newline, and these make a chain that verifies.
    - *search*: `find` returns the events that `EventFilter.matches` accepts, the newest first, and no more than the
      limit; case, accents, spaces and wildcards count.
    - *count*: counted by a member or by the path of a value in the metadata, as `AuditTrail.count_by` does, the events
      are those that were appended; events that have no such value are under "".
    - *verify*: an empty chain is valid, and so is the chain of all appended events; *progress* is called.
    - *damage*: with *damage*: a chain with a record that was changed is not valid, and hides no other record: in its
      place is a `DamagedRecord`, or the altered event.
    - *cancel*: wherever a call waits, cancellation ends it, and passes. An append that was cancelled is stored or not,
      never twice, and the next one works.
    - *ambiguity*: an append with ``once=True`` that was cancelled, wherever it waits, and is made again, is stored
      once.
    - *crash*: with *elsewhere*: a process that appends, and is killed by SIGKILL, leaves a chain that verifies, with
      every event whose append has returned; an append that was under way, and is made again, is stored once.
    - *threads*: threads with event loops of their own, asyncio's and, where it is installed, trio's, may use one object
      at the same time; where it `runs_anywhere`, threads without a loop too.
    - *writers*: two objects for the same place make one chain, and both see all its events.
    - *reopen*: after `aclose` it continues where it was, and so does another object for the same place.
    - *last_before*, *page_from*: where it has these methods, no event is left out, and none is there twice.
    - *append_lines*: where it has this method, a trail that is copied into it has the same bytes, answers the same
      questions, and continues; records that do not follow its head are refused.

    It needs real time and a real event loop, so no clock that jumps; run it on asyncio and on trio.

    Args:
        make: Makes a storage for the place of that name, letters, digits and "-": the same place for the same name, as
            in ``lambda name: FileStorage(tmp_path / name)``, and an empty one for a new name. A storage in memory is
            made once per name: ``functools.cache(lambda name: MemoryStorage())``.
        damage: Changes any one stored record in the place of that name, behind the back of the storage.
        elsewhere: Makes what *make* does, in another process, to which it is pickled: a function of a module, or a
            `functools.partial` of one, as in ``partial(storage_at, tmp_path)``. None for a storage in memory.
        timeout: Seconds that a call may take.

    Raises:
        AssertionError: It does not. The message begins with the clause, and with the expectation.
        TypeError: *elsewhere* can't be pickled, or is a function of ``__main__``.
    """
    # A new one for every run: a database may still have the places of the last run.
    run = secrets.token_hex(4)
    clauses = _CLAUSES
    if damage is not None:
        clauses = (*clauses, ("damage", functools.partial(_finds_damage, damage)))
    if elsewhere is not None:
        make_there = require_picklable("elsewhere", elsewhere)
        clauses = (*clauses, ("crash", functools.partial(survives_kills, make_there)))
    for number, (clause, check) in enumerate(clauses):
        place = Place(make, f"{clause}-{number}-{run}", timeout)
        try:
            await check(place)
            await place.close()
        except AssertionError as failure:
            raise AssertionError(f"{clause}: {failure}") from failure.__cause__


async def _appends(place: Place) -> None:
    storage = place.open()
    if await place.all(storage):
        raise AssertionError("a new place should be empty")
    previous: Seal | None = None
    stored: list[AuditEvent] = []
    for event in events_of_all_kinds():
        seal = await place.append(storage, event)
        expected = (1, None) if previous is None else (previous.sequence_number + 1, previous.checksum)
        if (seal.sequence_number, seal.previous_hash) != expected:
            raise AssertionError(
                f"append should return sequence_number {expected[0]}, and the checksum of the record before as"
                f" previous_hash; it returned {seal}"
            )
        previous = seal
        stored.append(chain.sealed(event, seal))
    await place.require(storage, stored)


async def _groups(place: Place) -> None:
    storage = place.open()
    await place.require(storage, await _appended_at_once(place, [storage], _MANY))


async def _appended_at_once(place: Place, storages: Sequence[AuditStorage], count: int) -> list[AuditEvent]:
    """Append *count* events at once, to *storages* in turn, and return them as they were stored."""
    stored: list[AuditEvent] = []

    async def append(storage: AuditStorage) -> None:
        stored.extend(await place.fill(storage, [an_event_with("many at once")]))

    await at_once(functools.partial(append, each) for each in itertools.islice(itertools.cycle(storages), count))
    return stored


async def _appends_once(place: Place) -> None:
    storage = place.open()
    event, other = an_event_with("once"), an_event_with("many times at once")
    stored = await place.fill(storage, [an_event_with("first")])
    first = await place.append_once(storage, event)
    if first is None:
        raise AssertionError("append with once should store an event whose id is not there")
    again = msgspec.structs.replace(event, message="the same id")
    if await place.append_once(storage, again) is not None:
        raise AssertionError("append with once should return None if the id of the event is there already")
    seals: list[Seal] = []

    async def append() -> None:
        if (seal := await place.append_once(storage, other)) is not None:
            seals.append(seal)

    await at_once([append] * _FEW)
    if len(seals) != 1:
        raise AssertionError(f"append with once should store an event once; of {_FEW} at once {len(seals)} did")
    stored += [chain.sealed(event, first), chain.sealed(other, seals[0])]
    for event in (an_event_with("an id like others", event_id=each) for each in _IDS):
        seal = await place.append_once(storage, event)
        if seal is None:
            raise AssertionError(
                f"append with once should store an event whose id is not there; it took {event.event_id!r} for another"
            )
        stored.append(chain.sealed(event, seal))
    await place.require(storage, stored)


async def _reads(place: Place) -> None:
    storage = place.open()
    events = await place.fill(storage, [an_event_with(str(number)) for number in range(_FEW)])
    for after, limit in itertools.product((0, 3, _FEW - 1, _FEW, _FEW + 5), (0, 1, 4, _MANY)):
        expected = events[after : after + limit]
        if await place.read(storage, after, limit) != expected:
            raise AssertionError(f"read({after}, {limit}) should return the events that come after that number")
        lines = await place.read_lines(storage, after, limit)
        if [decoded(line) for line in lines] != expected:
            raise AssertionError(f"read_lines({after}, {limit}) should return the lines that come after that number")


async def _searches(place: Place) -> None:
    storage = place.open()
    events = (await place.fill(storage, searched_events(_MANY)))[::-1]
    questions = questions_about(events)
    for one, other in [
        *((each, {}) for each in questions),
        *itertools.pairwise(questions),
        *zip(questions, questions[9:], strict=False),
    ]:
        conditions = {**one, **other}
        wanted = EventFilter(**conditions)
        expected = [event for event in events if wanted.matches(event)]
        for limit in (1, _MANY) if expected else (_MANY,):
            found = await place.find(storage, wanted, limit)
            if [event.event_id for event in found] != [event.event_id for event in expected[:limit]]:
                asked = " and ".join(f"{name}={value!r}" for name, value in conditions.items())
                raise AssertionError(
                    f"find with {asked or 'no condition'} and limit {limit} should return records"
                    f" {[event.sequence_number for event in expected[:limit]]}; it returned"
                    f" {[event.sequence_number for event in found]}"
                )
    if await place.find(storage, EventFilter(), 0):
        raise AssertionError("find with limit 0 should return nothing")


async def _counts(place: Place) -> None:
    storage = place.open()
    await place.fill(storage, searched_events(_MANY))
    for field, expected in COUNTS_OF_SEARCHED.items():
        counts = await place.ask("find", functools.partial(AuditTrail(storage=storage).count_by, field))
        shares = {value: count / _MANY for value, count in counts.items()}
        if shares != expected:
            raise AssertionError(
                f"of the events that find returns, the shares by {field} should be {expected}; they are {shares}"
            )


async def _verifies(place: Place) -> None:
    storage = place.open()
    await place.all(storage)
    await place.fill(storage, [an_event_with() for _ in range(_FEW)])
    told: list[int] = []
    await place.ask("verify", lambda: storage.verify(told.append))
    if not told or told != sorted(told) or told[-1] != _FEW:
        raise AssertionError(f"verify should tell progress how many were checked, {_FEW} in the end; it told {told}")


async def _finds_damage(damage: Callable[[str], object], place: Place) -> None:
    storage = place.open()
    events = await place.fill(storage, [an_event_with(str(number)) for number in range(_FEW)])
    lines = await place.read_lines(storage, 0, _FEW)
    await place.ask("aclose", storage.aclose)
    damage(place.name)
    result = await place.verify(storage)
    if result.valid or not result.error_message:
        raise AssertionError("verify should say that a chain is not valid whose record was changed, and why")
    pages = {
        "find": (await place.find(storage, EventFilter(), _FEW))[::-1],
        "read": await place.read(storage, 0, _FEW),
    }
    for what, found in pages.items():
        if len(found) != _FEW or sum(one != other for one, other in zip(events, found, strict=True)) > 1:
            raise AssertionError(
                f"where one record was changed, {what} should return each other event, and in its place a DamagedRecord"
                f" or the altered event; it returned {[getattr(each, 'sequence_number', 'a hole') for each in found]}"
            )
    left = await place.read_lines(storage, 0, _FEW)
    if len(set(lines) - set(left)) > 1:
        raise AssertionError(
            f"where one record was changed, read_lines should return each other line; it returned {len(left)} lines"
        )


async def _lets_cancellation_pass(place: Place) -> None:
    storage = place.open()
    stored = await place.fill(storage, [an_event_with("before")])
    unknown: set[str] = set()
    for wait in range(MOST_WAITS):
        event = an_event_with("cancelled")
        is_over = await place.cancelled("append", storage.append(event), wait)
        unknown.add(event.event_id)
        stored += await place.fill(storage, [an_event_with("after a cancellation")])
        if is_over:
            break
    events = await place.all(storage)
    ids = [event.event_id for event in events]
    if len(set(ids)) != len(ids):
        raise AssertionError("an append that was cancelled should be stored or not, and not twice")
    if [event for event in events if event.event_id not in unknown] != stored:
        raise AssertionError("events that were appended after a cancellation should be there once, in their place")
    reads: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "find": lambda: storage.find(EventFilter(), _MANY),
        "read": lambda: storage.read(0, _MANY),
        "read_lines": lambda: place.read_lines(storage, 0, _MANY),
        "verify": storage.verify,
    }
    for what, read in reads.items():
        for wait in range(MOST_WAITS):
            if await place.cancelled(what, read(), wait):
                break
            if await place.all(storage) != events:
                raise AssertionError(f"a cancelled {what} should leave everything as it was")


async def _serves_threads(place: Place) -> None:
    storage = place.open()
    stored: list[AuditEvent] = []

    async def append() -> None:
        for _ in range(_ROUNDS):
            stored.extend(await _appended_at_once(place, [storage], _FEW))
            await place.find(storage, EventFilter(), _FEW)

    async def append_alone() -> None:
        for _ in range(_ROUNDS):
            stored.extend(await place.fill_without_loop(storage, [an_event_with("without a loop")]))

    backends = ("asyncio", "trio") if importlib.util.find_spec("trio") else ("asyncio",)
    ways: list[Callable[[], object]] = [functools.partial(anyio.run, append, backend=each) for each in backends * 2]
    if getattr(storage, "runs_anywhere", False):
        ways += [lambda: without_loop(append_alone())] * 2
    await at_once(functools.partial(anyio.to_thread.run_sync, way) for way in ways)
    await place.require(storage, stored)


async def _shares_its_place(place: Place) -> None:
    storages = [place.open(), place.open()]
    stored: list[AuditEvent] = []
    for number in range(_FEW):
        stored += await place.fill(storages[number % 2], [an_event_with("in turn")])
    stored += await _appended_at_once(place, storages, _MANY)
    for storage in storages:
        await place.require(storage, stored)
    event = an_event_with("once")
    seals = [await place.append_once(storage, event) for storage in storages]
    if seals[0] is None or seals[1] is not None:
        raise AssertionError("append with once should know the ids that another object has stored in the same place")


async def _opens_again(place: Place) -> None:
    stored: list[AuditEvent] = []
    first, second = place.open(), place.open()
    for storage in (first, first, second):
        stored += await place.fill(storage, [an_event_with() for _ in range(3)])
        await place.ask("aclose", storage.aclose)
        await place.ask("aclose for the second time", storage.aclose)
        await place.require(storage, stored)
    await place.require(place.open(), stored)


_CLAUSES: Final[tuple[tuple[str, Callable[[Place], Awaitable[None]]], ...]] = (
    ("append", _appends),
    ("group", _groups),
    ("once", _appends_once),
    ("read", _reads),
    ("search", _searches),
    ("count", _counts),
    ("verify", _verifies),
    ("cancel", _lets_cancellation_pass),
    ("ambiguity", finds_lost_answers),
    ("threads", _serves_threads),
    ("writers", _shares_its_place),
    ("reopen", _opens_again),
    ("last_before", knows_the_last_before),
    ("page_from", pages_from_places),
    ("append_lines", takes_lines),
)

_FEW: Final = 8
_MANY: Final = 40
_ROUNDS: Final = 2
# Alike in a column that is too short, or whose collation takes some characters for others.
_IDS: Final = ("id", "ID", "id ", " id", "\u00edd", "i\u0301d", "x" * 127 + "y", "x" * 127 + "z")
