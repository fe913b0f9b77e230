"""
The file of an outbox: what waits, what was delivered, what could not be, and each attempt, in SQLite.

`OutboxFile` does the work, with calls that block; `fapilog.delivery.outbox` makes them where they can't block the event
loop, and the command line as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import math
import os
import reprlib
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args

import msgspec

from ..core.alerting import Announcement
from ..core.chain import ChainHead
from ..core.errors import OutboxError
from ..core.events import AuditEvent
from ..core.values import text

__all__ = [
    "AttemptOutcome",
    "Claim",
    "Ending",
    "OutboxAlert",
    "OutboxAttempt",
    "OutboxFile",
    "OutboxState",
    "Status",
    "Table",
]

T = TypeVar("T")

Status = Literal["pending", "delivered", "dead", "discarded"]
AttemptOutcome = Literal["delivered", "transient", "throttled", "ambiguous", "permanent", "error", "interrupted"]

_logger: Final = logging.getLogger("fapilog.delivery")
_decode: Final = msgspec.json.Decoder(AuditEvent).decode

# "fapi", so that `file` and SQLite's own tools tell whose it is: https://www.sqlite.org/fileformat.html#application_id
_APPLICATION_ID: Final = 0x66617069
_VERSION: Final = 1
# Seconds that a call waits for another process to finish its own.
_BUSY_TIMEOUT: Final = 10.0
# The attempts that are kept of one alert; one that is throttled for days makes thousands.
_MOST_ATTEMPTS: Final = 100
_PRUNED_AT_ONCE: Final = 1000
_MAX_INTEGER: Final = 2**63 - 1
# Seconds from 1970 to where `datetime` begins and ends.
_FIRST_TIME: Final = -62_135_596_800.0
_LAST_TIME: Final = 253_402_300_799.0
# Stands for a time that can't be read.
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)

_SCHEMA: Final = (
    """
CREATE TABLE outboxes (
    name TEXT PRIMARY KEY,
    sequence_number INTEGER,  -- the mark: what is about events up to here has come
    checksum TEXT,
    paused_until REAL NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0,  -- how many there are, since counting takes a while
    dead INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
    """,
    """
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY,
    outbox TEXT NOT NULL,
    event_id TEXT NOT NULL,
    sequence_number INTEGER NOT NULL,  -- 0: it has none
    event_type TEXT NOT NULL,
    severity TEXT NOT NULL,
    channel TEXT,
    event BLOB,  -- JSON; gone once it is delivered
    status TEXT NOT NULL DEFAULT 'pending',
    came_at REAL NOT NULL,
    since REAL NOT NULL,  -- when its schedule began
    due_at REAL NOT NULL,  -- of one that is being sent: when somebody else may take it
    lease TEXT,  -- who is sending it
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,  -- the attempts that count against the schedule
    reason TEXT,
    ended_at REAL,
    -- An event has one number, and new ones have the highest: their place in the index is at its end, and not anywhere,
    -- as that of a random id would be.
    UNIQUE (outbox, sequence_number, event_id)
)
    """,
    "CREATE INDEX due ON alerts (outbox, due_at, id) WHERE status = 'pending'",
    "CREATE INDEX by_status ON alerts (outbox, status, came_at)",
    """
CREATE TABLE attempts (
    alert INTEGER NOT NULL REFERENCES alerts ON DELETE CASCADE,
    number INTEGER NOT NULL,
    began_at REAL NOT NULL,
    took REAL,
    outcome TEXT,  -- NULL while it is under way
    reason TEXT,
    PRIMARY KEY (alert, number)
) WITHOUT ROWID
    """,
    """
CREATE TRIGGER came AFTER INSERT ON alerts BEGIN
    INSERT INTO outboxes (name, pending) VALUES (new.outbox, 1)
        ON CONFLICT (name) DO UPDATE SET pending = pending + 1;
END
    """,
    """
CREATE TRIGGER changed AFTER UPDATE OF status ON alerts WHEN old.status <> new.status BEGIN
    UPDATE outboxes SET
        pending = pending + (new.status = 'pending') - (old.status = 'pending'),
        dead = dead + (new.status = 'dead') - (old.status = 'dead')
    WHERE name = new.outbox;
END
    """,
)


# Where only the id of an event is known: looked for in an index, which is much smaller than the table.
_ABOUT: Final = "id IN (SELECT id FROM alerts WHERE event_id = ?)"


class OutboxAlert(msgspec.Struct, frozen=True, kw_only=True):
    """
    One alert in an outbox.

    Attributes:
        outbox: The name of the outbox.
        event_id: The event that it is about.
        sequence_number: That event's place in the trail; None if it has none.
        event_type: What happened.
        severity: As the dispatcher is told.
        channel: As the dispatcher is told.
        status: "pending": it waits, or is being sent. "delivered": the dispatcher has taken it. "dead": it was refused,
            or failed until its schedule was over. "discarded": somebody has given it up.
        came_at: When it came into the outbox.
        due_at: When the next attempt is due; of one that is being sent, when another process may take it over; None if
            there is none.
        ended_at: When it was delivered, died or was discarded; None while it is pending.
        attempts: How many were begun.
        reason: Why it was not delivered, or why it was discarded; None otherwise.
        unreadable: What of it is damaged in the file, with what was found there. Such a time is here in 1970, or None;
            such a number is 0.
    """

    outbox: str
    event_id: str
    sequence_number: int | None
    event_type: str
    severity: str
    channel: str | None
    status: Status
    came_at: datetime
    due_at: datetime | None
    ended_at: datetime | None
    attempts: int
    reason: str | None
    unreadable: Mapping[str, str] = {}


class OutboxAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """
    One attempt to deliver an alert.

    Attributes:
        number: Counted from 1.
        began_at: When it was taken up.
        took: Seconds; None if nobody knows.
        outcome: "delivered"; "transient", "throttled" (told how long to wait) and "permanent" failures; "ambiguous": it
            may have arrived; "error": anything else was raised; "interrupted": the process ended, or was stopped,
            before there was an outcome; None while it is under way.
        reason: In words that may be printed; None if it was delivered.
        unreadable: As of `OutboxAlert`.
    """

    number: int
    began_at: datetime
    took: float | None
    outcome: AttemptOutcome | None
    reason: str | None
    unreadable: Mapping[str, str] = {}


class OutboxState(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is in an outbox.

    Attributes:
        pending: Alerts that are not delivered yet.
        oldest: When the oldest of them came, in seconds since 1970; None if there is none.
        dead: Alerts that were refused or given up on, and that nobody has retried or discarded.
    """

    pending: int = 0
    oldest: float | None = None
    dead: int = 0


class Claim(NamedTuple):
    """
    An alert that was taken out to be sent.

    Attributes:
        alert: What to send.
        came_at: When it came, in seconds since 1970, as all times here.
        since: When its schedule began.
        attempt: Which attempt this is.
        failures: How many attempts have counted against its schedule.
        until: When somebody else may take it.
    """

    alert: Announcement
    came_at: float
    since: float
    attempt: int
    failures: int
    until: float

    @property
    def event_id(self) -> str:
        """The event that it is about: that is what an alert is known by, in whatever file."""
        return self.alert.event.event_id


class Ending(NamedTuple):
    """
    How an attempt ended.

    Attributes:
        claim: What was attempted.
        began_at: When.
        took: Seconds; None if it was never begun.
        outcome: See `OutboxAttempt`.
        reason: See `OutboxAttempt`.
        status: What the alert is now.
        due_at: When to try again, if it is pending.
        failures: How many attempts have counted against its schedule.
    """

    claim: Claim
    began_at: float
    took: float | None
    outcome: AttemptOutcome
    reason: str | None
    status: Status
    due_at: float
    failures: int


class OutboxFile:
    """
    A file with one or several outboxes in it.

    All methods block, and while one is at work so does a fork. Threads, other processes and other objects for the same
    file may use it at the same time. It is made, mode 0600, when it is first used. It is never deleted: one that is no
    database, or a damaged one, is renamed to ``NAME.corrupt-…`` and a new one takes its place.

    Args:
        path: Where it is: a local file system, as SQLite's locks can't be relied on over NFS.
        must_exist: Whether to raise instead of making it.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self._connection: sqlite3.Connection | None = None
        # Keeps the connection alive until it is closed: collected with this, it might warn first that it is open.
        self._closes: weakref.finalize[[sqlite3.Connection], OutboxFile] | None = None
        self._inode: tuple[int, int] | None = None
        self.path: Path = path.absolute()
        self._must_exist = must_exist
        self._lock = threading.Lock()
        _files.add(self)

    def run(self, calls: Sequence[Callable[[Table], T]], *, writes: bool = True) -> list[T]:
        """
        Make *calls* in one transaction, and return what they return; it is on the disk by then.

        Args:
            calls: Called with the tables.
            writes: Whether they may change anything.

        Raises:
            OutboxError: None of them had an effect. The message names the file and the reason.
        """
        with self._lock:
            try:
                with self._errors():
                    connection = self._opened()
                    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                    try:
                        table = Table(connection)
                        results = [call(table) for call in calls]
                        connection.execute("COMMIT")
                    except BaseException:
                        _roll_back(connection)
                        raise
                    self._check_unmoved()
                    return results
            except _CorruptError as corrupt:
                inode = self._inode
                self._close()
                if not self._must_exist:
                    self._set_aside(inode)
                raise OutboxError(*corrupt.args) from corrupt
            except OutboxError:
                self._close()
                raise

    def close(self) -> None:
        """Close it; the next call opens it again."""
        with self._lock:
            self._close()

    def before_fork(self) -> None:
        """Close it, and let nobody open it before `after_fork`."""
        self._lock.acquire()
        self._close()

    def after_fork(self) -> None:
        """Let it be used again, in the parent and in the child."""
        self._lock.release()

    def _close(self) -> None:
        closes, self._closes, self._connection, self._inode = self._closes, None, None, None
        if closes is not None:
            closes()

    def _check_unmoved(self) -> None:
        if self._inode != _inode(self.path):
            raise OutboxError(f"{self.path}: it was replaced or removed while it was in use")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._inode == _inode(self.path):
            return self._connection
        if self._connection is not None:
            _logger.error("the outbox file %s was replaced or removed while it was in use", self.path)
            self._close()
        if self._must_exist:
            self._check_access()
        else:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One at a time: to change to WAL, SQLite needs the file for itself and does not wait for it.
        with _locked(self.path.parent):
            if not self._must_exist:
                _make(self.path)
            self._inode = _inode(self.path)
            connection = self._connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            self._closes = weakref.finalize(self, _close, connection)
            connection.text_factory = _utf8
            # Before anything is changed: it may be somebody else's.
            is_new = self._is_new(connection)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            if is_new:
                self._make_tables(connection)
        return connection

    def _check_access(self) -> None:
        if not self.path.is_file():
            raise OutboxError(f"{self.path}: there is no such file")
        # SQLite would read some that it may not write, and leave files beside them that their owner can't use.
        if not os.access(self.path, os.R_OK | os.W_OK):
            raise OutboxError(f"{self.path}: expected a file that may be read and written; this one may not be")

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Return whether the tables are to be made; raise if it is somebody else's, or of another version."""
        application, version = _number(connection, "application_id"), _number(connection, "user_version")
        if (application, version) == (_APPLICATION_ID, _VERSION):
            return False
        is_empty = not application and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if is_empty and not self._must_exist:
            return True
        got = "an empty file" if is_empty else "another database"
        if application == _APPLICATION_ID:
            got = f"version {version}"
        raise OutboxError(f"{self.path}: expected an outbox of version {_VERSION}; got {got}")

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise OutboxError(f"{self.path}: {error.strerror or error}") from error
        except sqlite3.Error as error:
            raise (_CorruptError if _is_corrupt(error) else OutboxError)(f"{self.path}: {error}") from error

    def _set_aside(self, inode: tuple[int, int] | None) -> None:
        """Rename a damaged file, with what belongs to it, unless somebody has done so meanwhile."""
        with self._errors(), _locked(self.path.parent):
            if inode is None or inode != _inode(self.path) or not self._is_damaged():
                return
            aside = f"{self.path}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        _logger.critical("the outbox file %s is damaged; it was set aside as %s", self.path, aside)

    def _is_damaged(self) -> bool:
        """Look through all of it: SQLite also says "malformed" where the disk failed to read, once."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT, isolation_level=None)) as connection:
            try:
                return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",))
            except sqlite3.DatabaseError as error:
                if _is_corrupt(error):
                    return True
                raise


class Table:
    """
    What is in a file, within one transaction.

    Times are seconds since 1970. Where *outbox* may be None, that is every outbox in the file.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put(self, outbox: str, alert: Announcement, now: float) -> bool:
        """Keep *alert*, due at once; return whether it is new: each event is taken once."""
        event = alert.event
        done = self._connection.execute(
            "INSERT INTO alerts (outbox, event_id, sequence_number, event_type, severity, channel, event, came_at,"
            " since, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                outbox,
                event.event_id,
                _sequence_number(event),
                text(getattr(event.event_type, "value", event.event_type)),
                text(alert.severity),
                None if alert.channel is None else text(alert.channel),
                msgspec.json.encode(event),
                now,
                now,
                now,
            ),
        )
        return done.rowcount == 1

    def put_delivered(self, outbox: str, alert: Announcement, began_at: float, took: float) -> None:
        """Note that *alert* was delivered past the outbox, unless that is over for it."""
        self.put(outbox, alert, began_at)
        found = self._connection.execute(
            "SELECT id, attempts + 1 FROM alerts WHERE id = ? AND status = 'pending'",
            (self._find(outbox, alert.event),),
        ).fetchone()
        if found is not None:
            id_, number = found
            self._connection.execute(
                "UPDATE alerts SET status = 'delivered', lease = NULL, ended_at = ?, attempts = ?, event = NULL,"
                " reason = NULL WHERE id = ?",
                (began_at + took, number, id_),
            )
            self._connection.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, 'delivered', ?)",
                (id_, number, began_at, took, "sent directly, for the outbox could not be used"),
            )

    def claim(
        self,
        outbox: str,
        lease: str,
        now: float,
        until: float,
        limit: int,
        *,
        event: AuditEvent | None = None,
        held: Collection[str] = (),
    ) -> list[Claim]:
        """
        Take out up to *limit* alerts that are due, the longest due first; nobody else gets them before *until*.

        Args:
            outbox: Whose.
            lease: Who takes them.
            now: The time.
            until: When others may take them.
            limit: How many at most.
            event: Only the alert about this event.
            held: The events whose alerts they have already: these are not taken over, however late they are.
        """
        if limit <= 0 or self._paused_until(outbox) > now:
            return []
        due = self._connection.execute(
            "SELECT id, event_id, sequence_number, event, lease, severity, channel, came_at, since, attempts, failures"
            " FROM alerts"
            " WHERE outbox = ? AND status = 'pending' AND due_at <= ? AND id = coalesce(?, id) ORDER BY due_at, id",
            (outbox, now, None if event is None else self._find(outbox, event) or 0),
        )
        rows = list(islice((row for row in due if row[1] not in held), limit))
        due.close()
        claims: list[Claim] = []
        ids: list[int] = []
        for id_, event_id, number, stored, left, *found in rows:
            if left is not None:
                self._connection.execute(
                    "UPDATE attempts SET outcome = 'interrupted', reason = ? WHERE alert = ? AND outcome IS NULL",
                    ("nobody knows: the process ended, or lost its lease, before there was an outcome", id_),
                )
            event_or_why = _read(stored, event_id, number)
            if isinstance(event_or_why, str):
                # It must not stand in the way of the others for ever.
                self._connection.execute(
                    "UPDATE alerts SET status = 'dead', lease = NULL, ended_at = ?, reason = ? WHERE id = ?",
                    (now, event_or_why, id_),
                )
                _logger.error("the outbox %s gives up the alert about event %r: %s", outbox, event_id, event_or_why)
                continue
            sound = _sound(found, now)
            if sound != tuple(found):
                self._connection.execute(
                    "UPDATE alerts SET severity = ?, channel = ?, came_at = ?, since = ?, attempts = ?, failures = ?"
                    " WHERE id = ?",
                    (*sound, id_),
                )
            severity, channel, came_at, since, attempts, failures = sound
            if attempts >= _MOST_ATTEMPTS:
                last = attempts + 1 - _MOST_ATTEMPTS
                self._connection.execute("DELETE FROM attempts WHERE alert = ? AND number <= ?", (id_, last))
            ids.append(id_)
            alert = Announcement(event_or_why, severity, channel)
            claims.append(Claim(alert, came_at, since, attempts + 1, failures, until))
        if ids:
            self._take_out(ids, lease, now, until)
        return claims

    def give_back(self, outbox: str, claims: Iterable[Claim], lease: str, now: float) -> None:
        """Make *claims*, none of which was begun, due again, as if they had not been taken out."""
        for claim in claims:
            id_ = self._place(outbox, claim)
            done = self._connection.execute(
                "UPDATE alerts SET lease = NULL, due_at = ?, attempts = attempts - 1 WHERE id = ? AND lease = ?",
                (min(now, claim.until), id_, lease),
            )
            if done.rowcount:
                self._connection.execute("DELETE FROM attempts WHERE alert = ? AND number = ?", (id_, claim.attempt))

    def renew(self, outbox: str, claims: Iterable[Claim], lease: str, until: float) -> set[str]:
        """Keep *claims* from others until then; return the events of those that others have not got already."""
        statement = "UPDATE alerts SET due_at = ? WHERE id = ? AND lease = ?"
        return {
            claim.event_id
            for claim in claims
            if self._connection.execute(statement, (until, self._find(outbox, claim.alert.event), lease)).rowcount
        }

    def end(self, outbox: str, ending: Ending, lease: str, now: float) -> None:
        """Note how an attempt ended; an alert that somebody else has taken over is theirs, unless it is delivered."""
        claim = ending.claim
        id_ = self._place(outbox, claim)
        self._connection.execute(
            "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?)",
            (id_, claim.attempt, ending.began_at, ending.took, ending.outcome, ending.reason),
        )
        if ending.status == "delivered":
            self._connection.execute(
                "UPDATE alerts SET status = 'delivered', lease = NULL, event = NULL, reason = NULL, ended_at = ?,"
                " attempts = max(attempts, ?), failures = ? WHERE id = ? AND status <> 'delivered'",
                (now, claim.attempt, ending.failures, id_),
            )
        else:
            ended_at = None if ending.status == "pending" else now
            self._connection.execute(
                "UPDATE alerts SET status = ?, due_at = ?, lease = NULL, failures = ?, reason = ?, ended_at = ?"
                " WHERE id = ? AND status = 'pending' AND lease = ?",
                (ending.status, ending.due_at, ending.failures, ending.reason, ended_at, id_, lease),
            )

    def pause(self, outbox: str, until: float) -> None:
        """Let nobody claim anything before *until*."""
        self._connection.execute(
            "INSERT INTO outboxes (name, paused_until) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET paused_until = max(paused_until, excluded.paused_until)",
            (outbox, until),
        )

    def bring_forward(self, outbox: str, now: float) -> None:
        """Make all that wait for their next attempt due now."""
        self._connection.execute(
            "UPDATE alerts SET due_at = ? WHERE outbox = ? AND status = 'pending' AND lease IS NULL AND due_at > ?",
            (now, outbox, now),
        )

    def mend_times(self, outbox: str, now: float, longest: float) -> None:
        """Make due now what is due later than any wait is long: the clock was wrong when that was written."""
        self._connection.execute(
            "UPDATE alerts SET due_at = ? WHERE outbox = ? AND status = 'pending' AND due_at > ?",
            (now, outbox, now + longest),
        )
        self._connection.execute(
            "UPDATE outboxes SET paused_until = ? WHERE name = ? AND paused_until > ?", (now, outbox, now + longest)
        )

    def next_due(self, outbox: str, held: Collection[str] = ()) -> float | None:
        """Return when there is something to claim for one who has *held*; None if nothing else is pending."""
        pending = self._connection.execute(
            "SELECT due_at, event_id FROM alerts WHERE outbox = ? AND status = 'pending' ORDER BY due_at", (outbox,)
        )
        due = next((due_at for due_at, event_id in pending if event_id not in held and _is_time(due_at)), None)
        pending.close()
        return None if due is None else max(due, self._paused_until(outbox))

    def state(self, outbox: str) -> OutboxState:
        """Return how much is in it."""
        counts = self._connection.execute("SELECT pending, dead FROM outboxes WHERE name = ?", (outbox,)).fetchone()
        if counts is None:
            return OutboxState()
        (oldest,) = self._connection.execute(
            "SELECT min(came_at) FROM alerts WHERE outbox = ? AND status = 'pending' AND came_at BETWEEN ? AND ?",
            (outbox, _FIRST_TIME, _LAST_TIME),
        ).fetchone()
        pending, dead = (count if _is_count(count) else 0 for count in counts)
        return OutboxState(pending=pending, oldest=oldest, dead=dead)

    def prune(self, outbox: str, before: float) -> bool:
        """Remove some of what was delivered before that time; return whether there may be more."""
        done = self._connection.execute(
            "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts"
            # What was delivered before came before: that has an index.
            " WHERE outbox = ? AND status = 'delivered' AND came_at < ? AND ended_at < ? LIMIT ?)",
            (outbox, before, before, _PRUNED_AT_ONCE),
        )
        return done.rowcount == _PRUNED_AT_ONCE

    def mark(self, outbox: str) -> ChainHead | None:
        """Return up to where in the trail everything has come; None for an outbox that is new."""
        row = self._connection.execute(
            "SELECT sequence_number, checksum FROM outboxes WHERE name = ?", (outbox,)
        ).fetchone()
        if row is None or not isinstance(row[0], int):
            return None
        return ChainHead(row[0], None if row[1] is None else text(row[1]))

    def set_mark(self, outbox: str, mark: ChainHead, *, back: bool = False) -> None:
        """Move the mark on, and never back unless *back*."""
        self._connection.execute(
            "INSERT INTO outboxes (name, sequence_number, checksum) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET sequence_number = excluded.sequence_number, checksum = excluded.checksum"
            " WHERE ? OR typeof(sequence_number) <> 'integer' OR sequence_number < excluded.sequence_number",
            (outbox, *mark, back),
        )

    def having(self, outbox: str, events: Iterable[AuditEvent]) -> set[str]:
        """Return the ids of those of *events* that have come, whatever became of them."""
        return {event.event_id for event in events if self._find(outbox, event) is not None}

    def outboxes(self) -> list[str]:
        """Return the names of the outboxes in the file, sorted."""
        rows = self._connection.execute("SELECT name FROM outboxes UNION SELECT outbox FROM alerts ORDER BY 1")
        return [text(name) for (name,) in rows]

    def alerts(
        self,
        outbox: str | None = None,
        statuses: Sequence[Status] = (),
        *,
        event_id: str | None = None,
        limit: int = 100,
    ) -> list[OutboxAlert]:
        """Return alerts of one of *statuses*, or of any, in the order in which they came, *limit* at most."""
        conditions = {"outbox = ?": outbox, _ABOUT: event_id}
        given = {condition: [value] for condition, value in conditions.items() if value is not None}
        if statuses:
            given[f"status IN ({', '.join('?' * len(statuses))})"] = list(statuses)
        where = " AND ".join(given) or "TRUE"
        rows = self._connection.execute(
            "SELECT outbox, event_id, sequence_number, event_type, severity, channel, status, came_at, due_at,"  # noqa: S608
            f" ended_at, attempts, reason FROM alerts WHERE {where} ORDER BY came_at, id LIMIT ?",
            (*itertools.chain(*given.values()), limit),
        )
        return [_alert(_Row(rows.description, row)) for row in rows]

    def attempts(self, outbox: str, event_id: str) -> list[OutboxAttempt]:
        """Return the attempts to deliver the alert about an event, the first of them first."""
        rows = self._connection.execute(
            "SELECT number, began_at, took, outcome, a.reason FROM attempts AS a JOIN alerts ON alerts.id = alert"  # noqa: S608
            f" WHERE outbox = ? AND alerts.{_ABOUT} ORDER BY number",
            (outbox, event_id),
        )
        return [_attempt(_Row(rows.description, row)) for row in rows]

    def retry(self, outbox: str | None, event_ids: Iterable[str] | None, now: float) -> int:
        """Make alerts that are dead, discarded or waiting due now, on a new schedule; None: all that are dead."""
        new = (
            "UPDATE alerts SET status = 'pending', due_at = ?, since = ?, failures = 0, ended_at = NULL, reason = NULL"
            " WHERE event IS NOT NULL AND"
        )
        if event_ids is None:
            return self._in_outbox(f"{new} status = 'dead'", (now, now), outbox)
        which = f"{_ABOUT} AND lease IS NULL"
        return sum(self._in_outbox(f"{new} {which}", (now, now, each), outbox) for each in event_ids)

    def discard(self, outbox: str | None, event_ids: Iterable[str], reason: str, now: float) -> int:
        """Give up alerts that are dead or pending; they are kept, with the *reason*."""
        # Without its lease: whoever is sending it may find it discarded, and it can be retried.
        done = "UPDATE alerts SET status = 'discarded', lease = NULL, ended_at = ?, reason = ?"
        which = f"WHERE {_ABOUT} AND status IN ('dead', 'pending')"
        return sum(self._in_outbox(f"{done} {which}", (now, text(reason), each), outbox) for each in event_ids)

    def _take_out(self, ids: list[int], lease: str, now: float, until: float) -> None:
        # All at once: with each statement the thread gives up the interpreter's lock, and waits for it again.
        which = f"IN ({', '.join('?' * len(ids))})"
        self._connection.execute(
            f"UPDATE alerts SET lease = ?, due_at = ?, attempts = attempts + 1 WHERE id {which}",  # noqa: S608
            (lease, until, *ids),
        )
        self._connection.execute(
            "INSERT OR REPLACE INTO attempts (alert, number, began_at)"  # noqa: S608
            f" SELECT id, attempts, ? FROM alerts WHERE id {which}",
            (now, *ids),
        )

    def _place(self, outbox: str, claim: Claim) -> int:
        """Return the number of the alert that was taken out; in a file that was made since, put it in."""
        id_ = self._find(outbox, claim.alert.event)
        if id_ is None:
            self.put(outbox, claim.alert, claim.came_at)
            id_ = self._find(outbox, claim.alert.event)
        assert id_ is not None  # noqa: S101 - put there
        return id_

    def _find(self, outbox: str, event: AuditEvent) -> int | None:
        """Return the number of the alert about *event*; None if there is none."""
        row = self._connection.execute(
            "SELECT id FROM alerts WHERE outbox = ? AND sequence_number = ? AND event_id = ?",
            (outbox, _sequence_number(event), event.event_id),
        ).fetchone()
        return None if row is None else int(row[0])

    def _in_outbox(self, statement: str, values: tuple[object, ...], outbox: str | None) -> int:
        if outbox is not None:
            statement, values = f"{statement} AND outbox = ?", (*values, outbox)
        return self._connection.execute(statement, values).rowcount

    def _paused_until(self, outbox: str) -> float:
        row = self._connection.execute("SELECT paused_until FROM outboxes WHERE name = ?", (outbox,)).fetchone()
        return float(row[0]) if row is not None and _is_time(row[0]) else 0.0


class _CorruptError(OutboxError):
    """Raised when the file is no database, or a damaged one."""


# SQLite keeps account of the locks that a process has on a file. A child takes its parent's for its own, and has none:
# the parent would remove the log that the child writes to. So no file is open while the process is forked.
# https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_
_files: Final[weakref.WeakSet[OutboxFile]] = weakref.WeakSet()
_forking: Final = threading.Lock()
_stopped: Final[list[OutboxFile]] = []


def _before_fork() -> None:
    _forking.acquire()
    _stopped.extend(_files)
    for file in _stopped:
        file.before_fork()


def _after_fork() -> None:
    for file in _stopped:
        file.after_fork()
    _stopped.clear()
    _forking.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _is_corrupt(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _close(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.close()


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite may have done so by itself, and an error here says less than the one before.
    with contextlib.suppress(sqlite3.Error):
        connection.execute("ROLLBACK")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _make(path: Path) -> None:
    """Make the file, for nobody else's eyes, so that a power cut does not take it away again."""
    # Never opened if it is there: closing any descriptor of it would give up the locks that SQLite holds in this
    # process. https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextlib.contextmanager
def _locked(directory: Path) -> Generator[None]:
    """Be the only one, of all processes, to make or to rename an outbox in *directory*."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        give_up_at = time.monotonic() + _BUSY_TIMEOUT
        while not _lock(fd):
            if time.monotonic() > give_up_at:
                raise OutboxError(f"{directory}: another process keeps it locked")
            time.sleep(0.02)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sequence_number(event: AuditEvent) -> int:
    """Return the event's place in the trail; 0 if it has none, or one that SQLite can't keep."""
    number = event.sequence_number or 0
    return number if abs(number) <= _MAX_INTEGER else 0


# -- reading what may be damaged


def _utf8(stored: bytes) -> str:
    """Return text, of whatever bytes: SQLite's own way fails for the whole row, and with it for all others."""
    return stored.decode("utf-8", "replace")


def _read(stored: Any, event_id: object, number: object) -> AuditEvent | str:
    """Return the event of an alert, or why it can't be read; of another event, how it ended would never be found."""
    try:
        event = _decode(stored)
    except Exception as error:
        return f"the event in the outbox can't be read ({type(error).__qualname__})"
    if (event.event_id, _sequence_number(event)) != (event_id, number):
        return "the event in the outbox is not the one that the alert is about"
    return event


def _sound(found: Sequence[Any], now: float) -> tuple[str, str | None, float, float, int, int]:
    """Return what an alert can be sent with, for the part of its row that says how."""
    severity, channel, came_at, since, attempts, failures = found
    return (
        text(severity),
        None if channel is None else text(channel),
        came_at if _is_time(came_at) else now,
        since if _is_time(since) else now,
        attempts if _is_count(attempts) else 0,
        failures if _is_count(failures) else 0,
    )


def _is_time(value: object) -> bool:
    return isinstance(value, float) and _FIRST_TIME <= value <= _LAST_TIME


def _is_duration(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int)


def _is_count(value: object) -> bool:
    # Of which there is a next one.
    return isinstance(value, int) and 0 <= value < _MAX_INTEGER


def _is_text(value: object) -> bool:
    return isinstance(value, str)


class _Row:
    """
    A row, whatever is in it.

    Attributes:
        unreadable: The columns that did not hold what they should, with what they held.
    """

    def __init__(self, columns: Iterable[Sequence[Any]], values: Iterable[object]) -> None:
        self._values = dict(zip((name for name, *_ in columns), values, strict=True))
        self.unreadable: dict[str, str] = {}

    def read(self, column: str, is_right: Callable[[object], bool], otherwise: Any, *, or_none: bool = False) -> Any:
        """Return the value of *column* if it is what it should be."""
        value = self._values[column]
        if is_right(value) or (or_none and value is None):
            return value
        self.unreadable[column] = reprlib.repr(value)
        return otherwise

    def text(self, column: str, *, or_none: bool = False) -> Any:
        """Return text."""
        return self.read(column, _is_text, text(self._values[column]), or_none=or_none)

    def time(self, column: str, *, or_none: bool = False) -> datetime | None:
        """Return a time; None if there is none."""
        seconds = self.read(column, _is_time, None, or_none=or_none)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _alert(row: _Row) -> OutboxAlert:
    status = row.read("status", get_args(Status).__contains__, row.text("status"))
    return OutboxAlert(
        outbox=row.text("outbox"),
        event_id=row.text("event_id"),
        sequence_number=row.read("sequence_number", _is_integer, None) or None,
        event_type=row.text("event_type"),
        severity=row.text("severity"),
        channel=row.text("channel", or_none=True),
        status=status,
        came_at=row.time("came_at") or _NO_TIME,
        due_at=row.time("due_at") if status == "pending" else None,
        ended_at=row.time("ended_at", or_none=True),
        attempts=row.read("attempts", _is_count, 0),
        reason=row.text("reason", or_none=True),
        unreadable=row.unreadable,
    )


def _attempt(row: _Row) -> OutboxAttempt:
    return OutboxAttempt(
        number=row.read("number", _is_integer, 0),
        began_at=row.time("began_at") or _NO_TIME,
        took=row.read("took", _is_duration, None, or_none=True),
        outcome=row.read("outcome", get_args(AttemptOutcome).__contains__, None, or_none=True),
        reason=row.text("reason", or_none=True),
        unreadable=row.unreadable,
    )
