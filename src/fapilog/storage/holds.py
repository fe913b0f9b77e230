"""
Legal holds: days that retention does not remove, whatever their age, until the hold is lifted.

A hold on a day names the file of that day, and any file that has an event of that day: an event may be stored later.
They are in a file in the directory of the trail. `fapilog hold` sets and lifts them, and records that in the trail.
"""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import Generator
from datetime import date, datetime
from pathlib import Path
from typing import Final

import msgspec

from ..record.errors import AuditStorageError
from ..record.formats import from_json
from ..record.options import require_path, require_text
from ..record.times import Day, Moment, standard_now
from ..record.values import kind_of, text
from ._archive.day import exclusive
from ._files.directory import newest_file
from ._regular import MAX_SMALL, content_of_small
from ._whole import whole

__all__ = ["Hold", "add_hold", "holds_on", "remove_hold"]

_FILE: Final = "audit_holds.json"


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """
    A legal hold.

    Attributes:
        id: The id to lift it by.
        reason: Why, in words.
        since: The first day that is held; None for the first of the trail.
        until: The last day that is held; None if there is no last.
        set_at: When the hold was set.
    """

    id: str
    reason: str
    since: Day | None = None
    until: Day | None = None
    set_at: Moment

    def covers(self, day: date) -> bool:
        """Return whether the records of *day* are held."""
        return (self.since is None or self.since <= day) and (self.until is None or day <= self.until)


def holds_on(directory: Path | str) -> list[Hold]:
    """
    Return the holds on the trail in *directory*, the oldest first.

    Raises:
        AuditStorageError: Their file can't be read, or holds something else.
    """
    path = require_path("directory", directory) / _FILE
    try:
        return from_json(content_of_small(path), list[Hold])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise AuditStorageError(f"cannot read {path}: {error.strerror or error}") from error
    except msgspec.MsgspecError:
        # Never "no holds": something would be removed that must not be.
        raise AuditStorageError(f"{path}: expected a list of holds; got something else") from None


def add_hold(directory: Path | str, reason: str, *, since: date | None = None, until: date | None = None) -> Hold:
    """
    Set a hold on the trail in *directory*, and return it when it is on the disk.

    Args:
        directory: The directory of the trail.
        reason: Why, in words.
        since: The first day to hold; None for the first of the trail.
        until: The last day to hold; None if there is no last.

    Raises:
        AuditStorageError: The file can't be read or written, or retention is being applied.
        TypeError: *directory* is no path, *reason* is no text, or a day is no date, but a time or a text.
        ValueError: No reason, or the days are in the wrong order.
    """
    if not require_text("reason", reason).strip():
        raise ValueError("reason: expected words; got none")
    days: dict[str, object] = {"since": since, "until": until}
    for name, day in days.items():
        # A file with anything else could not be read again: no hold would be known, and no day be removed.
        if day is not None and (not isinstance(day, date) or isinstance(day, datetime)):
            raise TypeError(f"{name}: expected a date; got {kind_of(day)}")
    if since is not None and until is not None and until < since:
        raise ValueError(f"until: expected no day before {since}; got {until}")
    hold = Hold(id=uuid.uuid4().hex[:8], reason=text(reason), since=since, until=until, set_at=standard_now())
    directory = require_path("directory", directory)
    with _alone(directory):
        _write(directory, [*holds_on(directory), hold])
    return hold


def remove_hold(directory: Path | str, hold_id: str) -> Hold:
    """
    Lift a hold on the trail in *directory*, and return it.

    Raises:
        AuditStorageError: The file can't be read or written, or retention is being applied.
        LookupError: There is none of that id.
    """
    directory = require_path("directory", directory)
    with _alone(directory):
        holds = holds_on(directory)
        lifted = next((hold for hold in holds if hold.id == hold_id), None)
        if lifted is None:
            raise LookupError(f"there is no hold {hold_id}")
        _write(directory, [hold for hold in holds if hold is not lifted])
    return lifted


@contextlib.contextmanager
def _alone(directory: Path) -> Generator[None]:
    try:
        # Not during retention, which may have decided already which days it removes.
        with exclusive(directory):
            yield
    except OSError as error:
        raise AuditStorageError(f"cannot write {directory / _FILE}: {error.strerror or error}") from error


def _write(directory: Path, holds: list[Hold]) -> None:
    content = msgspec.json.format(msgspec.json.encode(holds), indent=2) + b"\n"
    if len(content) > MAX_SMALL:
        # It could not be read again: no hold would be known, and no day be removed.
        raise OSError(errno.EFBIG, f"expected at most {MAX_SMALL} bytes of holds; got {len(content)}")
    with newest_file(directory) as newest, whole(f"{directory}/{_FILE}", like=newest) as file:
        file.write(content)
