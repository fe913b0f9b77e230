"""
What of a trail is failing, in files beside its records, so that the next process can tell when it is over.

A process has such a file while anything is failing, and holds it locked. The kernel gives up the lock of one that dies:
a file that nobody holds is there to be taken over.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from ..storage.files import sync_directory

__all__ = ["LONGEST_TEXT", "IncidentFiles", "OpenIncident"]

_logger: Final = logging.getLogger("fapilog")

# Characters of a name or a cause that are kept: a recovery must fit into a record.
LONGEST_TEXT: Final = 1000
# More than a hundred of the longest.
_MAX_BYTES: Final = 2 << 20
# Each that is taken over is kept open until it is replaced.
_MOST_FILES: Final = 100
# Seconds after which nobody is writing a file any more that has no lock.
_UNFINISHED: Final = 60.0

_NAME: Final = re.compile(r"incidents-[0-9a-f]{32}\.(json|new)")

_Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]


class OpenIncident(msgspec.Struct, frozen=True):
    """
    A part of the trail that is failing.

    Attributes:
        component: As of `Part`.
        what: As of `Part`.
        incident: The id of the event that said so.
        cause: Why.
        started: Since when.
        told: Whether the dispatcher has taken the alert about it.
    """

    component: Literal["audit_trail", "alert_delivery"]
    what: _Text
    incident: uuid.UUID
    cause: _Text
    started: Annotated[datetime, msgspec.Meta(tz=True)]
    told: bool


_decode: Final = msgspec.json.Decoder(list[OpenIncident]).decode


class _Held(NamedTuple):
    path: Path
    fd: int


class IncidentFiles:
    """
    The files of one process. All methods block; none raises because of what is, or is not, in the directory.

    What was taken over stays where it is, and locked, until a file that has it too is on the disk. So whenever the
    process dies, each incident is in a file; one that has just ended may be found there once more.

    Args:
        directory: That of the trail; nothing is kept where there is none.
    """

    def __init__(self, directory: Path) -> None:
        self._held: list[_Held] = []
        # A daemon that changes to another directory still finds it.
        self._directory = directory.absolute()
        # An event loop that ends may leave a thread behind in the middle of a write.
        self._mutex = threading.Lock()
        self._saved: Sequence[OpenIncident] | None = ()
        self._has_complained = False

    def __del__(self) -> None:
        self._release()

    def take_over(self) -> list[OpenIncident]:
        """Return what is in the files of processes that are gone, and hold these."""
        found: list[OpenIncident] = []
        with self._mutex:
            for path in self._paths():
                if len(self._held) < _MOST_FILES:
                    try:
                        found += self._take(path)
                    except Exception as error:
                        _logger.warning("%s tells of no open incidents: %s", path, error)
            if self._held:
                self._saved = None
        return found

    def save(self, snapshot: Callable[[], Sequence[OpenIncident]]) -> bool:
        """Make what *snapshot* returns the content of the one file, or have none for nothing; return whether it is."""
        with self._mutex:
            # Asked for in here: who comes last has the newest.
            incidents = snapshot()
            if incidents != self._saved:
                try:
                    self._write(incidents)
                except Exception as error:
                    if not self._has_complained:
                        _logger.warning("a restart now would forget what is failing: %s", error)
                    self._has_complained = True
                    return False
                self._saved = incidents
                self._has_complained = False
            return True

    def close(self) -> None:
        """Leave the files to the next process."""
        with self._mutex:
            self._release()
            self._saved = ()

    def forget(self) -> None:
        """
        Become as new, in a forked child.

        The locks belong to the open files, which parent and child have in common: closed without being unlocked, they
        stay the parent's.
        """
        self._mutex = threading.Lock()
        self._release()
        self._saved = ()

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self._directory.iterdir() if _NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            _logger.warning("what was failing before this start is not known: %s", error)
            return []

    def _take(self, path: Path) -> list[OpenIncident]:
        # A link is not followed, and a pipe not waited for.
        held = self._hold(path, os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
        found = None
        try:
            found = _left_behind_in(held)
        finally:
            if found is None:
                self._let_go(held)
        return found or []

    def _write(self, incidents: Sequence[OpenIncident]) -> None:
        former = self._held.copy()
        if incidents:
            new = self._directory / f"incidents-{uuid.uuid4().hex}.new"
            held = self._hold(new.with_suffix(".json"), os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            try:
                fcntl.flock(held.fd, fcntl.LOCK_EX)
                with open(held.fd, "wb", closefd=False) as file:
                    file.write(msgspec.json.encode(incidents))
                os.fsync(held.fd)
                new.rename(held.path)
                sync_directory(self._directory)
            except BaseException:
                self._let_go(held)
                for path in (new, held.path):
                    path.unlink(missing_ok=True)
                raise
        for each in former:
            each.path.unlink(missing_ok=True)
            self._let_go(each)

    def _hold(self, path: Path, fd: int) -> _Held:
        held = _Held(path, fd)
        self._held.append(held)
        return held

    def _let_go(self, held: _Held) -> None:
        # In this order, so that a child that is forked in between closes no file of somebody else.
        self._held.remove(held)
        os.close(held.fd)

    def _release(self) -> None:
        while self._held:
            self._let_go(self._held[-1])


def _left_behind_in(held: _Held) -> list[OpenIncident] | None:
    """Lock the file and return what is in it; None if it is another's, or nothing to go on with."""
    try:
        fcntl.flock(held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(held.fd)
        if not os.path.samestat(status, held.path.lstat()):
            return None
    except (BlockingIOError, FileNotFoundError):
        # Its process lives; or another has taken it over, and is done with it.
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
        raise ValueError("it is no file of this kind")
    if held.path.suffix == ".new":
        # What it would have replaced is there. A young one may be about to be locked.
        if time.time() - status.st_mtime > _UNFINISHED:
            held.path.unlink()
        return None
    return _decode(os.read(held.fd, _MAX_BYTES))
