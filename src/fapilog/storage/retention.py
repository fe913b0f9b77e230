"""
Retention: the days of a trail are compressed, archived and removed when they are old enough.

A day is a file. It is never changed: compressed it has the same bytes, and it is removed as a whole. A removal is
recorded in the trail before it is made, and an anchor remains, so that the rest verifies as `ChainStatus.FRONT_PRUNED`.
Whenever the process ends, between any two steps, the trail is valid and can be written to, and the next run resumes the
work.
"""

from __future__ import annotations

import contextlib
import os
import re
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ..record.chain import ChainError, ChainHead
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.kinds import FLOORS, ComplianceLevel
from ..tasks.threads import in_thread
from ._anchor import MEMBER, Anchor, anchor_of, start_of
from ._archive.day import (
    BusyError,
    archive_day,
    begin_archive,
    compress_day,
    digest,
    exclusive,
    remove_days,
    sweep,
    tidy,
)
from ._archive.latest import latest_up_to
from ._files.access import cannot
from ._files.compressed import MAX_SIZE
from ._files.directory import reading, size_of
from ._files.lines import Lines
from ._files.names import SUFFIX, date_of, day_of, files_set_aside, names
from ._files.reader import TrailReader
from ._files.torn import follow_older
from ._replica import Replica, replica_of
from .archive import Archive
from .holds import Hold, holds_on

__all__ = ["BusyError", "RetainedDay", "RetentionReport", "RetentionRule", "apply_retention"]

# So many that the record that names them is far from the limit of a record.
_DAYS_A_RECORD: Final = 100
_BLOCK_BYTES: Final = 1 << 20
# In no text of a record, which has a backslash in front of each of its quotes.
_LEVEL: Final = re.compile(rb'"compliance_level":"([a-z0-9_]{1,20})"')
_DAY: Final = re.compile(rb'"timestamp":"([0-9]{4}-[0-9]{2}-[0-9]{2})T')
_LONGEST_MATCH: Final = 64
_TOO_LARGE: Final = "it is too large to be compressed"


class RetentionRule(msgspec.Struct, frozen=True, kw_only=True):
    """
    The ages at which days are compressed, archived and removed.

    Attributes:
        archive_after_days: Age in days beyond which a day is compressed, and copied to *archive*; None for never.
        retention_days: Age in days beyond which a day is removed; None for never.
        archive: Keeps the days; None to keep none. With an archive, a day is removed only if the archive has it whole.
        below_floor: Whether records are removed before the age that their level asks for (`FLOORS`).
        keep_from: The number of the first record that stays even if it is old enough; None for no such one.
    """

    archive_after_days: int | None = None
    retention_days: int | None = None
    archive: Archive | None = None
    below_floor: bool = False
    keep_from: int | None = None


class RetainedDay(msgspec.Struct, frozen=True, kw_only=True):
    """
    The steps that were made, or would be, for the file of a day.

    Attributes:
        file: Its name.
        compressed: Whether it was compressed in this run.
        archived: Whether it is in the archive, as this run has proved.
        removed: Whether it was removed.
        kept: Why it is kept, though it is old enough; else None.
        first: The number of its first record, if it was old enough to be removed.
        last: The number of its last record, likewise.
        sha256: The SHA-256 of its content, likewise.
        set_aside: The files with incomplete records that crashes left on that day: archived and removed with it.
    """

    file: str
    compressed: bool = False
    archived: bool = False
    removed: bool = False
    kept: str | None = None
    first: int | None = None
    last: int | None = None
    sha256: str | None = None
    set_aside: tuple[str, ...] = ()


class RetentionReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    The result of a run of retention.

    Attributes:
        days: The days that are old enough for something, the oldest first.
        dry_run: Whether nothing was done, and these are the days that a run would change.
        records: The numbers of the records about the removals.
    """

    days: tuple[RetainedDay, ...]
    dry_run: bool
    records: tuple[int, ...] = ()


class _Planned(msgspec.Struct, frozen=True):
    day: RetainedDay
    # After its last record; only of a day that is old enough to be removed.
    head: ChainHead | None


async def apply_retention(
    directory: Path,
    rule: RetentionRule,
    *,
    today: date,
    record: Callable[[dict[str, Any], str], Awaitable[int]],
    dry_run: bool = False,
) -> RetentionReport:
    """
    Apply *rule* to the trail in *directory*; `AuditTrail.apply_retention` calls it.

    Writers and readers may be at work meanwhile, in any process. Neither the file of today nor the newest one is
    touched. A caller is cancelled between two steps, and the next run resumes.

    Args:
        directory: The directory of the trail; absolute.
        rule: The ages and limits.
        today: The day, in UTC.
        record: Records in the trail that days are removed: called with the metadata and the reason, before they are.
            Returns the number of the record.
        dry_run: Whether to do nothing, and only to report.

    Raises:
        AuditStorageError: A file can't be read or written, the archive has something else, or another process applies
            retention. The days done until then stay done.
    """
    with _failures(directory):
        if dry_run:
            found = await in_thread(_plan, directory, rule, today, is_left=True)
            return RetentionReport(days=tuple(each.day for each in found), dry_run=True)
        with contextlib.ExitStack() as held:
            # Given up also where a cancellation comes in place of what the thread returns.
            await in_thread(lambda: held.enter_context(exclusive(directory)))
            await in_thread(sweep, directory)
            found = await in_thread(_plan, directory, rule, today, is_left=True)
            # What takes a list of all days is done once: for each of them, the days of years would take for ever.
            files = await in_thread(names, directory)
            days, is_left = rule.retention_days, getattr(rule.archive, "may_be_left", False)
            first = next((each.day.file for each in found if each.day.archived), None)
            if first is not None and rule.archive is not None:
                await in_thread(begin_archive, directory, rule.archive, date_of(first), days, is_left=is_left)
            for each in found:
                name, aside = each.day.file, each.day.set_aside
                if each.day.compressed:
                    await in_thread(compress_day, directory, name, files)
                if each.day.archived and rule.archive is not None:
                    await in_thread(archive_day, directory, name, rule.archive, days, aside, is_left=is_left)
            if any(each.day.compressed for each in found):
                await in_thread(tidy, directory)
            numbers = [
                await _remove(directory, rule, batch, record)
                for batch in _batches([each for each in found if each.day.removed])
            ]
    return RetentionReport(days=tuple(each.day for each in found), dry_run=False, records=tuple(numbers))


def _batches(planned: list[_Planned]) -> Iterable[list[_Planned]]:
    return (planned[begin : begin + _DAYS_A_RECORD] for begin in range(0, len(planned), _DAYS_A_RECORD))


async def _remove(
    directory: Path,
    rule: RetentionRule,
    batch: list[_Planned],
    record: Callable[[dict[str, Any], str], Awaitable[int]],
) -> int:
    before = await in_thread(start_of, directory)
    last = batch[-1]
    assert last.head is not None  # noqa: S101 - planned to be removed
    assert last.head.checksum is not None  # noqa: S101 - it has records
    said = {
        "sequence_number": last.head.sequence_number,
        "checksum": last.head.checksum,
        "file": last.day.file,
        "first": before.sequence_number + 1,
        "previous_hash": before.checksum,
        "days": {each.day.file: each.day.sha256 for each in batch},
        "retention_days": rule.retention_days,
        "archive": None if rule.archive is None else str(rule.archive),
        "below_floor": rule.below_floor,
        # The last, since it is cut where a record has no room for all of them.
        "set_aside": [name for each in batch for name in each.day.set_aside],
    }
    number = await record({MEMBER: said}, f"older than {rule.retention_days} days")
    anchor = Anchor(
        sequence_number=last.head.sequence_number,
        checksum=last.head.checksum,
        file=last.day.file,
        record=number,
        latest=await in_thread(latest_up_to, directory, last.day.file),
    )
    await in_thread(remove_days, directory, anchor)
    return number


@contextlib.contextmanager
def _failures(directory: Path) -> Generator[None]:
    try:
        yield
    except ChainError as damage:
        raise AuditStorageError(f"{directory}: {damage}") from damage
    except OSError as error:
        raise cannot("apply retention in", directory, error) from error


def _plan(directory: Path, rule: RetentionRule, today: date) -> list[_Planned]:
    files = [name for name in names(directory) if size_of(directory, name)]
    # Neither the newest, which is written to, nor today's, nor one of tomorrow, by a clock that was wrong.
    closed = [name for name in files[:-1] if _day(name) < today]
    holds, replica, aside = holds_on(directory), replica_of(directory), files_set_aside(directory) if files else ()
    archived = {} if rule.archive is None or not closed else _sizes(directory, rule.archive)
    planned: list[_Planned] = []
    head: ChainHead | None = start_of(directory)
    kept: str | None = None
    end = 0
    is_stuck = False
    for name in closed:
        age = (today - _day(name)).days
        is_cold = rule.archive_after_days is not None and age > rule.archive_after_days
        is_old = rule.retention_days is not None and age > rule.retention_days
        if not (is_cold or is_old):
            break
        # Those of days without a record are with the next day.
        begin, end = end, bisect_right(aside, name, key=lambda each: each[: len(name)])
        day = RetainedDay(file=name, set_aside=aside[begin:end])
        if is_old and kept is None:
            assert head is not None  # noqa: S101 - lost only with the day that is kept
            day, head = _examined(directory, day, head)
            kept = day.kept or _not_replicated(day, replica) or _why_kept(directory, day, rule, holds, age)
            day = replace(day, kept=kept, removed=kept is None)
        elif is_old:
            day = replace(day, kept="an older day is kept")
        # An archive has all days up to one: it is one chain.
        is_stuck = is_stuck or (rule.archive is not None and _is_too_large(directory, name))
        day = _packed(directory, day, None if is_stuck else rule.archive, archived, is_cold=is_cold)
        if is_stuck and day.kept is None:
            day = replace(day, kept="an older day is too large to be archived")
        if day.compressed or day.archived or day.removed or day.kept:
            planned.append(_Planned(day, head if day.removed else None))
    return planned


def _sizes(directory: Path, archive: Archive) -> Mapping[str, int]:
    """Return the files of *archive*; raise AuditStorageError if they are gone, as where a volume is not mounted."""
    found, anchor = archive.sizes(), anchor_of(directory)
    if anchor is None or any(map(day_of, found)):
        return found
    for event in TrailReader(directory, durable=False).read(anchor.record - 1, 1):
        said = event.metadata.get(MEMBER) if isinstance(event, AuditEvent) else None
        if isinstance(said, dict) and said.get("archive") == str(archive):
            words = f"it is empty, and had {anchor.file} before that was removed: see whether its volume is mounted"
            raise AuditStorageError(f"{archive}: {words}; nothing is deleted")
    return found


def _packed(
    directory: Path, day: RetainedDay, archive: Archive | None, archived: Mapping[str, int], *, is_cold: bool
) -> RetainedDay:
    """Return *day* with the steps to make short of its removal."""
    if not (is_cold or day.removed) or (archive is None and day.removed):
        return day
    if _is_too_large(directory, day.file):
        return replace(day, kept=day.kept or _TOO_LARGE)
    is_plain = (directory / day.file).exists()
    # For a day that stays, an archive file that was proved once is not proved again.
    is_new = archive is not None and (day.removed or is_plain or not _is_there(directory, day.file, archived))
    return replace(day, compressed=is_plain, archived=is_new)


def _is_too_large(directory: Path, name: str) -> bool:
    """Return whether a file is not compressed yet, and never will be."""
    return (directory / name).exists() and size_of(directory, name) > MAX_SIZE


def _is_there(directory: Path, name: str, archived: Mapping[str, int]) -> bool:
    """Return whether a compressed file looks as if it were in the archive; only `archive_day` proves that."""
    packed = f"{name}{SUFFIX}"
    return archived.get(packed) == (directory / packed).stat().st_size


def _examined(directory: Path, day: RetainedDay, before: ChainHead) -> tuple[RetainedDay, ChainHead | None]:
    """Return *day* with its numbers and hash, and the head after it; if it is damaged, why it is kept, and None."""
    try:
        with reading(directory, day.file) as fd:
            head = follow_older(directory, Lines(fd, day.file), 0, before)
            numbers = {"first": before.sequence_number + 1, "last": head.sequence_number}
            return replace(day, sha256=digest(fd), **numbers), head
    except ChainError:
        # Evidence: see `fapilog recover`.
        return replace(day, kept="it is damaged"), None


def _not_replicated(day: RetainedDay, replica: Replica | None) -> str | None:
    if replica is None:
        return None
    if replica.is_stuck:
        # Restored from a backup, the target may have fewer records than it was known to have.
        return f"its replica can't continue: {replica.problem}"
    # The record with which the replica ends stays too: by it the replica is known to be one of this trail.
    if day.last is not None and day.last >= replica.sequence_number:
        return f"{replica.target} ends with record {replica.sequence_number}"
    return None


def _why_kept(directory: Path, day: RetainedDay, rule: RetentionRule, holds: list[Hold], age: int) -> str | None:
    if rule.archive is not None and _is_too_large(directory, day.file):
        # The archive never gets it; and what comes after a day that stays, stays too.
        return _TOO_LARGE
    days = _days_in(directory, day.file) if holds else set[date]()
    hold = next((hold for hold in holds if any(map(hold.covers, days))), None)
    if hold is not None:
        return f"legal hold {hold.id}"
    if rule.keep_from is not None and day.last is not None and day.last >= rule.keep_from:
        return f"an alert about record {rule.keep_from} may be pending"
    if not rule.below_floor:
        for level in _levels_in(directory, day.file):
            years = FLOORS[level]
            # A year has up to 366 days, and of six years two.
            if age <= years * 365 + years // 4 + 1:
                return f"it has records of level {level.value}, which are kept for {years} year{'s'[: years > 1]}"
    return None


def _levels_in(directory: Path, name: str) -> list[ComplianceLevel]:
    """Return the levels with a floor that records of the file have, the one with the highest floor first."""
    found = _found_in(directory, name, _LEVEL)
    return sorted((level for level in FLOORS if level.value.encode() in found), key=lambda level: -FLOORS[level])


def _days_in(directory: Path, name: str) -> set[date]:
    """Return the day of the file, and the days of its events: where a clock was ahead for a while, they are earlier."""
    days = {_day(name)}
    for found in _found_in(directory, name, _DAY):
        with contextlib.suppress(ValueError):
            days.add(date.fromisoformat(found.decode()))
    return days


def _found_in(directory: Path, name: str, pattern: re.Pattern[bytes]) -> set[bytes]:
    """Return what the group of *pattern* matches in the file."""
    found: set[bytes] = set()
    with reading(directory, name) as fd:
        offset = 0
        while block := os.pread(fd, _BLOCK_BYTES, offset):
            found.update(pattern.findall(block))
            # A match that begins at the end of this block is in the next one.
            offset += len(block) - _LONGEST_MATCH if len(block) == _BLOCK_BYTES else len(block)
    return found


def _day(name: str) -> date:
    try:
        return date_of(name)
    except ValueError:
        # There is no such day, so its age is unknown.
        return date.max
