"""Reading a trail from its files. Needs no writer, and runs beside the writers of all processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Generator
from datetime import UTC
from pathlib import Path
from typing import Final, cast

import msgspec

from ..record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainHead, ChainStatus
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.formats import decoded
from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ..record.parties import Target
from ._directory import cannot, files_set_aside, names, reading, sync, without_writers
from ._lines import Lines
from ._torn import Torn
from .protocol import EQUAL, EventFilter

__all__ = ["TrailReader", "start_of_end"]

_ALL: Final = EventFilter()


class TrailReader:
    """
    Reads the files of one trail.

    All methods block. It keeps nothing between two calls, so that any number of threads may call it at once. It takes
    the lock on the directory, shared, only for short looks at the end of the trail, where a writer may be at work.

    Args:
        directory: Where the files are; absolute. It may be missing: the trail is then empty.
        durable: Whether `read` returns only records that are on the disk.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory = directory
        self._durable = durable

    def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Check every record, and call *progress* with how many so far; damage is returned, not raised."""
        checked = 0

        def note(sequence_number: int) -> None:
            nonlocal checked
            checked = sequence_number
            if progress is not None:
                progress(sequence_number)

        aside: tuple[str, ...] = ()
        head = EMPTY
        try:
            files = names(self._directory)
            aside = files_set_aside(self._directory) if files else ()
            for name in files:
                head = self._verify_file(name, head, note, is_last=name == files[-1])
        except ChainError as damage:
            intact = damage.head.sequence_number
            is_torn = damage.status is ChainStatus.TORN_TAIL
            return AuditChainVerificationResult(
                valid=is_torn,
                events_checked=intact if is_torn else intact + 1,
                first_invalid_sequence=None if is_torn else intact + 1,
                error_message=str(damage),
                status=damage.status,
                set_aside=aside,
            )
        except OSError as error:
            return AuditChainVerificationResult(
                valid=False,
                events_checked=checked,
                error_message=str(cannot("read", self._directory, error)),
                status=ChainStatus.UNREADABLE,
            )
        return AuditChainVerificationResult(
            valid=True,
            events_checked=head.sequence_number,
            error_message=f"incomplete records were set aside in {', '.join(aside)}" if aside else None,
            status=ChainStatus.TORN_TAIL if aside else ChainStatus.OK,
            set_aside=aside,
        )

    def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent]:
        """
        Return the newest *limit* events that are wanted, the newest first.

        Raises:
            AuditStorageError: A file can't be read, or a line on the way is no record.
        """
        if limit < 1:
            return []
        with contextlib.closing(self.newest_first(wanted)) as events:
            return list(itertools.islice(events, limit))

    def newest_first(self, wanted: EventFilter = _ALL) -> Generator[AuditEvent, None, None]:
        """
        Yield the events that are wanted, of those that are there to stay, the newest first, as far as is asked for.

        Raises:
            AuditStorageError: A file can't be read, or a line that may be wanted is no record.
        """
        needles, may_match = _needles(wanted), _by_time(wanted)
        with self._failures():
            files, last = self._stored()
            first, behind = 0, len(files)
            if wanted.after is not None:
                first = max(0, self._file_of(wanted.after + 1, files))
            if wanted.before is not None:
                behind = self._file_of(wanted.before, files) + 1
            for name in reversed(files[first:behind]):
                with reading(self._directory, name) as fd:
                    lines = Lines(fd, name)
                    end = last if name == files[-1] else lines.end()
                    begin, end = _span(lines, end, wanted)
                    for offset, line in lines.backwards(end, begin=begin, needles=needles):
                        if may_match(line):
                            event = _event(lines, offset, line)
                            if wanted.matches(event):
                                yield event

    def read(self, after: int, limit: int) -> list[AuditEvent]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        Raises:
            AuditStorageError: A file can't be read, or a line on the way is no record.
        """
        found: list[AuditEvent] = []
        with self._failures():
            files, end = self._stored()
            for name in files[max(0, self._file_of(after + 1, files)) :]:
                if len(found) >= limit:
                    break
                with reading(self._directory, name) as fd:
                    lines = Lines(fd, name)
                    is_last = name == files[-1]
                    records = lines.after(after, end if is_last else lines.end())
                    found += (_event(lines, *record) for record in itertools.islice(records, limit - len(found)))
                    if is_last and self._durable:
                        # A writer that was killed may have written these records without syncing them.
                        sync(fd)
        return found

    def _verify_file(
        self, name: str, before: ChainHead, progress: Callable[[int], None], *, is_last: bool
    ) -> ChainHead:
        """Check that the records of a file follow the head *before*, and return the head after them."""
        with reading(self._directory, name) as fd:
            lines = Lines(fd, name)
            head, size, rest = before, 0, b""
            try:
                head, size, rest = lines.follow(0, before, progress)
                if not rest or (not is_last and Torn(self._directory, name, size, rest).is_set_aside()):
                    return head
            except ChainError:
                if not is_last:
                    raise
            # A record may be being written, or records whose sync failed may have been taken back while they were
            # checked: look again without writers, if need be from the beginning of the file.
            with without_writers(self._directory):
                try:
                    head, size, rest = lines.follow(size, head, progress)
                except ChainError:
                    if not size:
                        raise
                    head, size, rest = lines.follow(0, before, progress)
                if not rest or (not is_last and Torn(self._directory, name, size, rest).is_set_aside()):
                    return head
                if not is_last:
                    raise lines.torn_in_the_middle(size, head)
                if last := lines.follow_rest(size, head, rest):
                    return last
                message = f"{name} ends with {len(rest)} bytes of an incomplete record"
                raise ChainError(ChainStatus.TORN_TAIL, message, head)

    def _stored(self) -> tuple[list[str], int]:
        """
        Return the names of the files up to the last that holds records, and the offset behind the last record in it.

        These records are there to stay. A record that a writer has written and not synced is not among them, since the
        writer takes it back if the sync fails.
        """
        if not names(self._directory):
            return [], 0
        with without_writers(self._directory):
            files = names(self._directory)
            while files:
                with reading(self._directory, files[-1]) as fd:
                    end = Lines(fd, files[-1]).end()
                if end:
                    return files, end
                files.pop()
        return [], 0

    def _file_of(self, sequence_number: int, files: list[str]) -> int:
        """Return the index of the file in which that record is, or would be; -1 if it is before the first."""
        return bisect_right(range(len(files)), sequence_number, key=lambda index: self._first_number(files[index:])) - 1

    def _first_number(self, files: list[str]) -> int:
        """Return the sequence number of the first record in *files*; a large one if there is none."""
        for name in files:
            with reading(self._directory, name) as fd:
                lines = Lines(fd, name)
                if first := lines.first_from(0, lines.end()):
                    return lines.head_before(*first).sequence_number + 1
        return sys.maxsize

    @contextlib.contextmanager
    def _failures(self) -> Generator[None, None, None]:
        """Raise `AuditStorageError` in place of damage, and of an error of the operating system."""
        try:
            yield
        except ChainError as damage:
            raise AuditStorageError(f"{self._directory}: {damage}") from damage
        except OSError as error:
            raise cannot("read", self._directory, error) from error


def _event(lines: Lines, offset: int, line: bytes) -> AuditEvent:
    try:
        return decoded(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        damage = ChainError(ChainStatus.UNREADABLE, f"this is not a record of the trail: {error}")
        raise lines.placed(damage, offset) from error


def _span(lines: Lines, end: int, wanted: EventFilter) -> tuple[int, int]:
    """Return where the records between the numbers that are wanted begin, and where they end."""
    begin = 0
    if wanted.before is not None:
        end = next((offset for offset, _ in lines.after(wanted.before - 1, end)), end)
    if wanted.after is not None:
        begin = next((offset for offset, _ in lines.after(wanted.after, end)), end)
    return begin, end


# The encoder of records writes these characters as they are, and did in each version.
_AS_THEY_ARE: Final = re.compile(r"[ !#-\[\]-~]*")


def _needles(wanted: EventFilter) -> list[bytes]:
    """
    Return bytes that each record has which is wanted, so that no other needs to be decoded.

    Records are written by one encoder, which writes equal values as equal bytes. A value with other characters than
    those that it has always written as they are gives no needle.
    """
    found = [(name, getattr(wanted, name)) for name in EQUAL]
    found += (wanted.metadata or {}).items()
    # A tuple by now.
    kinds = cast("tuple[AuditEventType, ...]", wanted.event_type or ())
    if len(kinds) == 1:
        found.append(("event_type", kinds[0].value))
    if wanted.log_level is not None:
        found.append(("log_level", AuditLogLevel(wanted.log_level).value))
    if wanted.outcome is not None:
        found.append(("outcome", AuditOutcome(wanted.outcome).value))
    # In front of a value in the metadata stands the end of its path, whether that is a name or the end of one.
    parts = [(name.rpartition(".")[2], '":"', value, '"') for name, value in found if isinstance(value, str)]
    parts += [("", '"', wanted.tag, '"')] if wanted.tag is not None else []
    parts += [("", "", wanted.message, "")] if wanted.message else []
    # Of a target, what format 1 has too, as the end of "resource"; of an actor, whatever member it is.
    parts += [("", "", target.id, '"')] if (target := cast("Target | None", wanted.target)) and target.id else []
    parts += [("", '"', wanted.actor, '"')] if wanted.actor is not None else []
    return ["".join(each).encode() for each in parts if _AS_THEY_ARE.fullmatch(each[0] + each[2])]


# Stands in front of the time in a record, behind the id; a quote inside of an id is escaped.
_TIME: Final = b'","timestamp":"'
_SECONDS: Final = len("2026-03-01T12:00:00")


def _by_time(wanted: EventFilter) -> Callable[[bytes], bool]:
    """
    Return a function that tells from its bytes that a record is not of the time that is wanted, to the second.

    Times are written in UTC and in one form, whose bytes are in the order of the times.
    """
    start, end = (
        b"" if time is None else time.astimezone(UTC).isoformat()[:_SECONDS].encode()
        for time in (wanted.start_time, wanted.end_time)
    )

    def may_match(line: bytes) -> bool:
        place = line.find(_TIME) + len(_TIME)
        second = line[place : place + _SECONDS]
        return start <= second and (not end or second <= end)

    return may_match if start or end else lambda _: True


def start_of_end(directory: Path, files: list[str], size: int) -> tuple[int, int, ChainHead]:
    """
    Return where to begin, to check the last *size* bytes of *files*: the index of a file, an offset in it, and a head.

    Short of the whole trail, the first record that begins there is believed. If none does, since a power cut left zeros
    for all of these bytes, more are checked.
    """
    while True:
        index, beyond = len(files), -size
        while index > 0 and beyond < 0:
            index -= 1
            beyond += os.stat(directory / files[index]).st_size
        if index == 0 and beyond <= 0:
            return 0, 0, EMPTY
        offset, begin = max(0, beyond), None
        for name in files[index:]:
            with reading(directory, name) as fd:
                lines = Lines(fd, name)
                end = lines.end()
                first = lines.first_from(offset, end)
                if begin is None:
                    begin = end if first is None else first[0]
                if first is not None:
                    return index, begin, lines.head_before(*first)
            offset = 0
        size *= 2
