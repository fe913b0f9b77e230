"""Checking every record of a trail, beside its writers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ...record.chain import EMPTY, AuditChainVerificationResult, ChainError, ChainHead, ChainStatus
from .._anchor import Anchor, anchor_of, front_pruned, says
from .access import cannot
from .conversions import undone
from .directory import reading
from .effort import Effort
from .lines import PlacedError, lines_of
from .locking import locked
from .names import files_set_aside, names
from .recovering import sealed_break, sealed_places
from .torn import follow_older

__all__ = ["set_aside", "verify"]


_HARMLESS: Final = frozenset({ChainStatus.TORN_TAIL, ChainStatus.FRONT_PRUNED})


class _Finding(NamedTuple):
    """A deviation that does not end the verification."""

    status: ChainStatus
    first_invalid: int | None
    words: str


def verify(
    directory: Path, progress: Callable[[int], None] | None = None, effort: Effort | None = None
) -> AuditChainVerificationResult:
    """
    Check every record, and call *progress* with how many so far; damage is returned, not raised.

    Raises:
        TooLongError: The *effort* was ended.
    """
    effort = effort or Effort()
    while True:
        before = _anchor_now(directory)
        result = _verify(directory, before, progress, effort)
        if result.valid or _anchor_now(directory) == before:
            return result
        # Days were removed meanwhile.


def _anchor_now(directory: Path) -> Anchor | None:
    try:
        return anchor_of(directory)
    except (ChainError, OSError):
        # Which the verification comes to itself.
        return None


def _verify(
    directory: Path, anchor: Anchor | None, progress: Callable[[int], None] | None, effort: Effort
) -> AuditChainVerificationResult:
    start = EMPTY if anchor is None else anchor.head
    checked = start.sequence_number

    def note(sequence_number: int) -> None:
        nonlocal checked
        checked = sequence_number
        effort.take(0)
        if progress is not None:
            progress(sequence_number - start.sequence_number)

    findings: list[_Finding] = []
    files: list[str] = []
    aside: tuple[str, ...] = ()
    try:
        files = names(directory)
        aside = files_set_aside(directory) if files else ()
        checked = _follow(directory, files, start, note, findings, effort=effort).sequence_number
        if anchor is not None:
            findings.append(_front(directory, files, anchor))
    except ChainError as damage:
        is_torn = damage.status is ChainStatus.TORN_TAIL
        checked = damage.head.sequence_number + (not is_torn)
        if is_torn and anchor is not None:
            findings.append(_front(directory, files, anchor))
        findings.append(_Finding(damage.status, None if is_torn else checked, str(damage)))
    except OSError as error:
        findings.append(_Finding(ChainStatus.UNREADABLE, None, str(cannot("read", directory, error))))
    if aside and all(each.status is ChainStatus.FRONT_PRUNED for each in findings):
        findings.append(_Finding(ChainStatus.TORN_TAIL, None, set_aside(aside)))
    # The last finding ended the verification, unless it only is a torn tail.
    worst = [each for each in findings if each.status not in _HARMLESS] or findings
    return AuditChainVerificationResult(
        valid=all(each.status in _HARMLESS for each in findings),
        events_checked=checked - start.sequence_number,
        first_invalid_sequence=next((each.first_invalid for each in findings if each.first_invalid is not None), None),
        error_message="; ".join(each.words for each in reversed(findings)) or None,
        status=worst[-1].status if worst else ChainStatus.OK,
        set_aside=aside,
        pruned=None if anchor is None else anchor.head,
    )


def _front(directory: Path, files: list[str], anchor: Anchor) -> _Finding:
    """Return the finding about the removed records, after a look for the record about their removal."""
    if any(says(line, anchor) for line in _record(directory, files, anchor.record)):
        return _Finding(ChainStatus.FRONT_PRUNED, None, front_pruned(anchor))
    words = f"{anchor.removed} removed, and record {anchor.record} does not say so"
    return _Finding(ChainStatus.GAP, anchor.sequence_number + 1, words)


def set_aside(files: Iterable[str]) -> str:
    """Return the words on incomplete records that crashes left, in these *files*."""
    return f"incomplete records were set aside in {', '.join(files)}"


def _record(directory: Path, files: list[str], number: int) -> Iterator[bytes]:
    """Yield the lines from the record of that *number* on that are near it."""
    for name in reversed(files):
        with lines_of(directory, name) as lines:
            end = lines.end()
            first = lines.first_record(0, end)
            if first is None or first[1] > number:
                continue
            begin, behind = lines.around(number - 1, end).behind, lines.around(number, end).place
            yield from (line for _, line in lines.forwards(begin, behind))
            return


def _follow(
    directory: Path,
    files: list[str],
    start: ChainHead,
    note: Callable[[int], None],
    findings: list[_Finding],
    *,
    effort: Effort,
) -> ChainHead:
    """Check that the records of *files* follow the head *start*, and return the head after them."""
    index, offset, head = 0, 0, start
    sealed: set[tuple[str, int]] | None = None
    while index < len(files):
        name = files[index]
        try:
            head = _verify_file(directory, name, offset, head, note, is_last=name == files[-1], effort=effort)
        except PlacedError as damage:
            if sealed is None:
                # Looked for once: a tool may have converted thousands of files.
                sealed = sealed_places(directory, files[index:])
            # Before it is asked whether the file was converted: the bytes that are sealed may go beyond that file.
            is_sealed = (damage.file, damage.offset) in sealed
            seal = sealed_break(directory, files, damage) if is_sealed else None
            if seal is not None:
                index, offset, head = seal.file, seal.offset, seal.head
                message = f"{damage}; record {seal.record} has sealed this damage as it is"
                findings.append(_Finding(ChainStatus.RECOVERED, damage.head.sequence_number + 1, message))
                continue
            with reading(directory, name) as fd:
                words, behind = undone(fd, head) if offset == 0 else ("", None)
            if not words or behind is None:
                more = f"; {name} was converted: {words}; its records are not intact" if words else ""
                raise ChainError(damage.status, f"{damage}{more}", damage.head) from None
            message = f"{name} was converted: {words}; undone, its records are intact"
            findings.append(_Finding(ChainStatus.CONVERTED, head.sequence_number + 1, message))
            head = behind
            note(head.sequence_number)
        except ChainError as damage:
            # All that is damaged may be how it is compressed, and then no record of it is known.
            if damage.status is not ChainStatus.UNREADABLE or damage.head != EMPTY:
                raise
            raise ChainError(damage.status, str(damage), head) from None
        index, offset = index + 1, 0
    return head


def _verify_file(
    directory: Path,
    name: str,
    start: int,
    before: ChainHead,
    progress: Callable[[int], None],
    *,
    is_last: bool,
    effort: Effort,
) -> ChainHead:
    """Check that the records of a file, from *start* on, follow the head *before*, and return the head after them."""
    with lines_of(directory, name) as lines:
        if not is_last:
            return follow_older(directory, lines, start, before, progress)
        head, size = before, start
        with contextlib.suppress(ChainError):
            head, size, rest = lines.follow(start, before, progress)
            if not rest:
                return head
        # A record may be being written, or one that a full disk has cut may have been taken back while it was
        # checked: look again without writers, if need be from the beginning of the file.
        with locked(directory, check=lambda: effort.take(0)):
            try:
                head, size, rest = lines.follow(size, head, progress)
            except ChainError:
                if size == start:
                    raise
                head, size, rest = lines.follow(start, before, progress)
            if not rest:
                return head
            if last := lines.follow_rest(size, head, rest):
                return last
            message = f"{name} ends with {len(rest)} bytes of an incomplete record"
            raise ChainError(ChainStatus.TORN_TAIL, message, head)
