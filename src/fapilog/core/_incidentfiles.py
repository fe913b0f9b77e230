"""
The open incidents of a process, in files beside the records of the trail, so that the next process can resolve them.

A process has such a file while an incident is open, and holds the file locked. The kernel gives up the lock of a
process that dies: a file without a lock is there to be taken over.

An attacker who can write to the directory can put such a file there. So a file is refused if no process of this package
can have written it, all numbers are bounded, and control characters are taken out of texts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from ..record.values import text
from ..storage.files import OWNER, Access, make_directory, sync_directory
from ..tasks.strangers import Log
from ._incidents import LONGEST_TEXT, MOST_OPEN, OWN, Incident, new_id

__all__ = ["IncidentFiles"]

_log: Final = Log("fapilog")

# More bytes than `MOST_OPEN` incidents take.
_MAX_BYTES: Final = 2 << 20
# A file that is taken over stays open until its successor is on the disk.
_MOST_FILES: Final = 100
# Incidents that are taken over at a start. Every incident beyond `MOST_OPEN` takes a line in the log.
_MOST_FOUND: Final = 1000
# Files that are looked at, readable or not, and lines in the log about the unreadable ones.
_MOST_LOOKS: Final = 1000
_MOST_LINES: Final = 10
# Seconds after which a file without a lock is abandoned, and not one whose process is about to lock it.
_UNFINISHED: Final = 60.0

_NAME: Final = r"incidents-[0-9a-f]{32}\.(json|new)"


_decode: Final = msgspec.json.Decoder(Annotated[list[Incident], msgspec.Meta(max_length=MOST_OPEN)]).decode


class _Held(NamedTuple):
    path: Path
    fd: int


class IncidentFiles:
    """
    The files of one process.

    All methods block, and any thread may call them. None raises.

    A file that was taken over stays in place, and locked, until its incidents are in a new file that is on the disk. So
    whenever the process dies, every open incident is in a file; an incident that was just resolved may still be in one.

    Args:
        directory: The directory of the trail; made when the first incident is kept, if the trail has no event yet. A
            directory that was there and is gone is not made: it may be that of an unmounted file system.
        access: The mode and the group of a directory that is made.
    """

    def __init__(self, directory: Path, access: Access = OWNER) -> None:
        self._held: list[_Held] = []
        # A daemon may change its working directory.
        self._directory = directory.absolute()
        self._access = access
        self._was_there = False
        # An event loop that ends may leave a thread behind in the middle of a write.
        self._mutex = threading.Lock()
        self._saved: Sequence[Incident] | None = ()
        self._has_complained = False

    def __del__(self) -> None:
        self._release()

    def take_over(self) -> list[Incident]:
        """Return the incidents in the files of processes that are gone, and hold these files."""
        found: list[Incident] = []
        useless = 0
        with self._mutex:
            for path in self._paths():
                if len(self._held) >= _MOST_FILES or len(found) >= _MOST_FOUND:
                    break
                try:
                    found += self._take(path)
                except Exception as error:
                    useless += 1
                    if useless <= _MOST_LINES:
                        _log.warning("cannot read open incidents from %s: %s", path, _shown(text(error)))
            if self._held:
                self._saved = None
        if useless > _MOST_LINES:
            _log.warning("cannot read open incidents from %d more files", useless - _MOST_LINES)
        return found

    def save(self, snapshot: Callable[[], Sequence[Incident]]) -> bool:
        """
        Replace the files by one with the incidents that *snapshot* returns, or by none if it returns none.

        Returns:
            Whether the incidents are saved; if not, the former files are still there.
        """
        with self._mutex:
            # Called with the mutex held: of several threads, the last to write has the newest incidents.
            incidents = snapshot()
            if incidents != self._saved:
                try:
                    self._write(incidents)
                except Exception as error:
                    if not self._has_complained:
                        _log.warning(
                            "cannot save open incidents (%s): their recovery will not be reported after a restart",
                            error,
                        )
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

        A lock belongs to the open file, which parent and child share: the child closes the file without unlocking it,
        and the parent keeps the lock.
        """
        self._mutex = threading.Lock()
        self._release()
        self._saved = ()

    def _paths(self) -> list[Path]:
        try:
            found = sorted(path for path in self._directory.iterdir() if re.fullmatch(_NAME, path.name))
            self._was_there = True
        except FileNotFoundError:
            return []
        except OSError as error:
            _log.warning(
                "cannot list the files of open incidents (%s): recoveries from earlier failures will not be reported",
                error,
            )
            return []
        if len(found) > _MOST_LOOKS:
            _log.warning("there are %d files of open incidents; the first %d are read", len(found), _MOST_LOOKS)
        return found[:_MOST_LOOKS]

    def _take(self, path: Path) -> list[Incident]:
        # A device may do something when it is opened.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("it is not a regular file")
        # Without following a link, or waiting for the other end of a pipe, if it was replaced in the meantime.
        held = self._hold(path, os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
        found = None
        try:
            found = _left_behind_in(held)
        finally:
            if found is None:
                self._let_go(held)
        return found or []

    def _write(self, incidents: Sequence[Incident]) -> None:
        former = self._held.copy()
        if incidents:
            if not self._was_there:
                make_directory(self._directory, self._access)
                self._was_there = True
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
        # Removed first: a child that is forked in between must not close a descriptor that was given to another file.
        self._held.remove(held)
        # The descriptor is free even if this fails: "man 2 close".
        with contextlib.suppress(OSError):
            os.close(held.fd)

    def _release(self) -> None:
        while self._held:
            self._let_go(self._held[-1])


def _left_behind_in(held: _Held) -> list[Incident] | None:
    """Lock the file and return its incidents; None if another process has it, or if it is of no use."""
    try:
        fcntl.flock(held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(held.fd)
        if not os.path.samestat(status, held.path.lstat()):
            return None
    except (BlockingIOError, FileNotFoundError):
        # The process of the file lives; or another process has taken the file over, and removed it.
        return None
    _check(status, held.path.parent.stat().st_uid)
    if held.path.suffix == ".new":
        # The file that it would have replaced is there. A young one may be about to be locked.
        if time.time() - status.st_mtime > _UNFINISHED:
            held.path.unlink()
        return None
    return list(_believed(_decode(os.read(held.fd, _MAX_BYTES))))


def _check(status: os.stat_result, owner: int) -> None:
    """Raise `ValueError` if no process that writes to a directory of *owner* leaves a file with that *status*."""
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
        raise ValueError("it is not a file of open incidents")
    if status.st_uid not in {os.geteuid(), owner} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError("another user may have written it")


def _believed(incidents: Sequence[Incident]) -> Iterator[Incident]:
    """Yield *incidents* with their texts fit to be shown; raise `ValueError` if no process has written them."""
    for each in incidents:
        # A dispatcher names its parts itself; the parts of the trail are known.
        if each.part.component == "audit_trail" and each.part not in OWN:
            raise ValueError("it names a part that the trail does not have")
        if each.id != new_id(each.part, each.id):
            raise ValueError("it names an incident of another part")
        part = msgspec.structs.replace(each.part, operation=_shown(each.part.operation))
        yield msgspec.structs.replace(each, part=part, cause=_shown(each.cause))


def _shown(given: str) -> str:
    """Return *given* without the control characters and the marks of text direction, which a terminal obeys."""
    cut = given[:LONGEST_TEXT]
    return "".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in cut)
