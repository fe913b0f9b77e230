"""The storage in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, overload

from ...record import chain
from ...record.chain import ChainError, ChainHead, Seal
from ...record.errors import AuditStorageError, StoringInterruptedError
from ...record.events import AuditEvent
from ...record.options import require
from ...record.privacy import without_frames
from ...record.texts import escaped
from ...tasks.fork import call_in_child
from ...tasks.groupcommit import GroupCommit
from ...tasks.threads import in_thread
from .._anchor import Anchor
from .._rows.storage import RowStorage
from ..copying import followed
from ..protocol import KeptAlert
from ._reading import Reader
from ._schema import VERSION, installed_version, key_of, keys_of
from ._writing import Batch, Item, Lines
from .alerts import require_name
from .connection import Address, Connection, Link, Password, Server

__all__ = ["PostgresStorage"]

_INTERRUPTED: Final = StoringInterruptedError()

_MAY_WRITE: Final = """\
SELECT has_table_privilege('fapilog.records', 'INSERT'), pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on'
"""
# Seconds that the start of a trail waits for a server that is away.
_LOOK: Final = 3.0


class PostgresStorage(RowStorage):
    """
    The chain in a table of PostgreSQL, for any number of processes on any number of machines.

    All processes that name the same trail make one chain. The records are the lines that `FileStorage` writes. A
    question for a user, a session, a request, a trace, an address, an actor, a target, a type or a time takes an index.
    An event whose id is in the trail already is refused.

    The tables have to be there: ``fapilog storage init``, or `install_schema`. It works through PgBouncer in
    transaction mode.

    Args:
        dsn: The database, as libpq has it: ``postgresql://user@host/database`` or ``host=... dbname=...``. Leave the
            password to ``~/.pgpass``, to a service file or to PGPASSWORD if you can; it is never shown. Or a function
            that returns the DSN, which is called for every connection, in any thread.
        trail: The name of the trail; one database holds many.
        timeout: Seconds that an event may wait to be stored, and a page to be read, while the server is away, stops,
            starts, or has another transaction at the same trail. A call that comes while other calls wait may wait
            for twice as long.
        password: The password, in place of one in the *dsn*; or a function that returns it, which is called for every
            connection, so that the password may change while the service runs.

    Attributes:
        server: The server; its text is host, port and database.
        trail: As given.
        timeout: As given.

    Raises:
        TypeError: *dsn*, *password* or *trail* is no text, or *timeout* no number.
        ValueError: *dsn* can't be read, *trail* has no characters, more than 200, or one that can't be printed,
            or *timeout* is not above 0.
    """

    def __init__(self, dsn: Address, trail: str, *, timeout: float = 10.0, password: Password | None = None) -> None:
        self.server: Server = Server(dsn, password)
        self.trail: str = require_name("trail", trail)
        self.timeout: float = float(require("timeout", timeout, above=0))
        self._writer = self.link()
        # Another connection, so that no reader is in a writer's way.
        self._reads = self.link()
        super().__init__(Reader(self._reads, trail, self.timeout), [self._reads, self._writer])
        self._commits: GroupCommit[Item, Seal | None] = GroupCommit(self._commit, interrupted=_INTERRUPTED)
        call_in_child(self, PostgresStorage._forget)

    def __str__(self) -> str:
        """Return where it is, without the password."""
        return f"{self.server}, trail {escaped(self.trail)!r}"

    def __repr__(self) -> str:
        return f"<PostgresStorage {self}>"

    def link(self) -> Link:
        """Return another connection to the database, which is opened when it is needed: a `PostgresOutbox` has one."""
        return Link(self.server, self._check)

    @overload
    async def append(
        self, event: AuditEvent, *, once: Literal[False] = False, alerts: Sequence[KeptAlert] = ()
    ) -> Seal: ...
    @overload
    async def append(
        self, event: AuditEvent, *, once: bool = False, alerts: Sequence[KeptAlert] = ()
    ) -> Seal | None: ...

    @without_frames
    async def append(self, event: AuditEvent, *, once: bool = False, alerts: Sequence[KeptAlert] = ()) -> Seal | None:
        """
        Store *event* as the next of the chain.

        Returning means that the server has committed it, as durably as its settings say. If the answer to a commit is
        lost, the event is looked up by its id, and is never stored twice. A caller that is cancelled while it waits for
        its turn has stored nothing; later, it may have.

        Args:
            event: The event.
            once: Whether to return None, and not to raise, if a record of the trail has its id already.
            alerts: The alerts about it, which are put into their `PostgresOutbox` in the same transaction.

        Raises:
            AuditStorageError: It is not stored: the server is away, or refuses, its newest record is damaged or was
                taken away, the record would be longer than `MAX_RECORD_BYTES`, or another one has the id. If the
                answer to its commit was lost, and the server did not come back in time, the message says that the
                event may be stored.
        """
        body = chain.body_to_store(event)
        result = await self._commits.submit(Item(key_of(event.event_id), body, keys_of(event), once, alerts))
        if result is None and not once:
            raise AuditStorageError(f"cannot append to {self}: a record has the id of this event already")
        return result

    @without_frames
    async def append_lines(
        self, after: ChainHead, lines: Sequence[bytes], *, removed: Anchor | None = None
    ) -> ChainHead:
        """
        Append records as they are, all of them or none, as `FileStorage.append_lines` does.

        As for `append`, a commit whose answer is lost is looked up.

        Args:
            after: The head that the first of them follows, and with which this trail ends.
            lines: The records, without their newlines.
            removed: The end of the removed records, for the first ones of an empty trail that begins behind these.

        Raises:
            AuditStorageError: As for `append`, though a record may have the id of another one; also for a record that
                can't be read. If the answer to the commit was lost, and the server did not come back in time, they may
                be stored.
        """
        head = followed(self, after, lines)
        if lines:
            begins = removed is not None
            await in_thread(lambda: self._append(Lines(self.trail, self._known, after, lines, head, begins=begins)))
        return head

    async def trouble(self) -> str | None:
        """Return why no event could be stored, if that can be known without storing one; else None."""
        return await in_thread(self._trouble)

    # -- in a thread

    def _commit(self, items: Iterable[Item]) -> list[Seal | None]:
        """Store the *items* whose ids are new, and return the seals in order; None where the id is there already."""
        return self._append(Batch(self.trail, self._known, items))

    def _append(self, batch: Batch | Lines) -> list[Seal | None]:
        try:
            seals, head = self._writer.call(f"append to trail {escaped(self.trail)!r}", batch.append, self.timeout)
        except ChainError as damage:
            problem = f"{self}: {damage}; nothing is appended"
        except AuditStorageError as error:
            if not batch.is_unknown:
                raise
            problem = f"{error}; the answer to a commit was lost: the event may be stored"
        else:
            self._known = head
            return seals
        raise AuditStorageError(problem)

    def _check(self, connection: Connection) -> None:
        """Raise AuditStorageError if the tables are not of the expected version."""
        found = installed_version(connection)
        if found != VERSION:
            got = f"version {found}" if found else "none"
            cure = "update fapilog" if found > VERSION else "run fapilog storage init"
            raise AuditStorageError(f"{self.server}: expected the tables of version {VERSION}; got {got}: {cure}")

    def _trouble(self) -> str | None:
        try:
            return self._reads.call("write", _why_not_writable, min(self.timeout, _LOOK))
        except AuditStorageError as error:
            return str(error)

    def _forget(self) -> None:
        # In a forked child.
        self._reads.abandon()
        self._writer.abandon()


def _why_not_writable(connection: Connection) -> str | None:
    [(may_insert, is_standby, is_read_only)] = connection.execute(_MAY_WRITE).fetchall()
    if not may_insert:
        return (
            f"the role {escaped(connection.info.user)!r} may not insert into fapilog.records: grant it fapilog_writer"
        )
    if is_standby:
        return "the server is a standby, which can only be read"
    # Some services set it for a server whose disk is nearly full.
    return "the server takes no changes: default_transaction_read_only is on" if is_read_only else None
