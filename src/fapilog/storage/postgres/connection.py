"""
A connection to PostgreSQL that is opened when it is needed, and never waits for ever.

It works through PgBouncer in transaction mode: nothing is prepared, and no setting outlives its transaction.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
import time
import weakref
from collections.abc import Callable, Generator
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ...record.errors import AuditStorageError
from ...record.options import is_async
from ...record.privacy import ADDRESS, Uncopied
from ...record.texts import escaped
from ...record.values import kind_of
from ...tasks.strangers import tamed
from ...tasks.threads import Turn

__all__ = ["Address", "Connection", "Link", "Password", "Server", "abandon", "words"]

T = TypeVar("T")
_Row: TypeAlias = "tuple[Any, ...]"

Password: TypeAlias = str | Callable[[], str]
"""A password, or a function that returns it and is called for every connection, so that the password may change."""

Address: TypeAlias = Annotated[str | Callable[[], str], ADDRESS]
"""A DSN in libpq's syntax, or a function that returns it and is called for every connection."""

# Libpq takes the first "@" for the end of the password, and looks for none behind a "/": the rest of such a password
# would be a part of the host or of the database, which errors name.
_UNESCAPED: Final = re.compile(r"postgres(?:ql)?://(?:[^?]*@[^?]*@|[^?@]*/[^?]*@)")
# Seconds: the first pause between two tries, and the longest.
_PAUSES: Final = (0.02, 1.0)
# Seconds between two looks at the clock.
_LOOK_EVERY: Final = 0.1
_LONGEST_WORDS: Final = 500
# Milliseconds, of a lock: https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-LOCK-TIMEOUT
_LONGEST_PATIENCE: Final = 2**31 - 1
# Errors that may be over at the next try: https://www.postgresql.org/docs/current/errcodes-appendix.html Lost
# connections, rolled back transactions, a server that stops or starts.
_PASSING_CLASSES: Final = ("08", "40", "57")
_PASSING: Final = frozenset(
    {
        "25006",  # read only: a standby that is about to be promoted, or was the primary
        "25P03",  # idle in a transaction for too long: this process was stopped
        "25P04",  # in a transaction for too long: it waited for another one, say
        "53300",  # too many connections
        "55P03",  # waited too long for a lock
    }
)

# What a role that may not do something lacks.
_GRANTS: Final = {"42501": "; fapilog_reader may read, fapilog_writer record, and fapilog_sender send alerts"}

# The seconds after which a server releases the locks, if this machine is gone or this process is stopped: fewer than
# the others wait by default. Said with its unit, as that of a number alone is another for each setting.
_LEFT_ALONE: Final = 5

_BEGIN: Final = """\
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT set_config('lock_timeout', {patience}, true),
    set_config('idle_in_transaction_session_timeout', {left_alone}, true),
    set_config('tcp_keepalives_idle', {left_alone}, true),
    set_config('tcp_keepalives_interval', '3', true),
    set_config('tcp_keepalives_count', '3', true),
    set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true)"""


class Connection(psycopg.Connection[_Row]):
    """A connection that gives up a wait at a time that is set before every call, and may be set during it."""

    _gives_up_at: float = math.inf

    def give_up_at(self, moment: float) -> None:
        """Wait for the server no longer than until *moment* of the monotonic clock; any thread may call it."""
        self._gives_up_at = moment

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Do as psycopg does, until it is time to give up."""
        try:
            return super().wait(self._in_time(gen), *args, **kwargs)
        except (ValueError, psycopg.ProgrammingError) as error:
            # To the error of a server that ends a connection PgBouncer adds one of its own, where psycopg takes one.
            if self.closed:
                raise psycopg.OperationalError("the connection was lost") from error
            raise

    def _in_time(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        ready: Any = None
        while True:
            try:
                wanted = gen.send(ready)
            except StopIteration as ended:
                result: T = ended.value
                return result
            # Ten times a second psycopg goes on with nothing that is ready.
            ready = yield wanted
            if not ready and time.monotonic() > self._gives_up_at:
                raise psycopg.OperationalError("no answer in time")

    def beginning(self) -> sql.Composed:
        """
        Return the SQL that begins a transaction: it gives up on locks a little before the connection does.

        The server gives up on this process if that stands still. A role may have asked for commits that return before
        they are on the disk; one that asks for more, as of standbys, has it:
        https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-SYNCHRONOUS-COMMIT
        """
        # A little less than is left, so that the server says why, before this process gives up.
        patience = _patience(0.9 * (self._gives_up_at - time.monotonic()))
        parts = {"patience": patience, "left_alone": f"{_LEFT_ALONE}s"}
        return sql.SQL(_BEGIN).format(**{name: sql.Literal(part) for name, part in parts.items()})

    def wait_for_locks(self, seconds: float) -> None:
        """Wait for locks no longer than *seconds* in this transaction, and for the server as long as it works."""
        self.execute("SELECT set_config('lock_timeout', %s, true)", [_patience(seconds)])
        self.give_up_at(math.inf)

    def __del__(self, *_: object) -> None:
        """Warn of nothing: the link closes it, or the end of the process does."""


def _patience(seconds: float) -> str:
    """Return *seconds* as a time that PostgreSQL can read; 0 would mean no limit."""
    return f"{max(1, int(min(_LONGEST_PATIENCE, 1000 * seconds)))}ms"


class Server(Uncopied):
    """
    Where a database is, and how to connect to it.

    Its text names host, port and database, and never the password.

    Args:
        dsn: In libpq's syntax. No error shows any part of it.
        password: Takes the place of the password in *dsn*; None for that, or for libpq's own ways to find one.

    Raises:
        TypeError: *dsn* or *password* is neither a text nor a function.
        ValueError: *dsn* is a text that can't be read, or *password* one that can't be sent.
    """

    def __init__(self, dsn: Address, password: Password | None = None) -> None:
        self._dsn = _source("dsn", dsn)
        self._password = None if password is None else _source("password", password)
        if isinstance(password, str):
            _clean("password", password)
        # As it was read last: a text never calls a function of others.
        self._parameters: dict[str, Any] = _parsed(dsn) if isinstance(dsn, str) else {}
        if not isinstance(dsn, str):
            with contextlib.suppress(psycopg.OperationalError):
                self._read()

    def __str__(self) -> str:
        given = self._parameters
        host = given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
        port = given.get("port") or os.environ.get("PGPORT") or "5432"
        database = given.get("dbname") or os.environ.get("PGDATABASE") or given.get("service") or "default"
        return escaped(f"PostgreSQL {host}:{port}/{database}")

    def __repr__(self) -> str:
        return f"<{self}>"

    def connect(self, timeout: float) -> Connection:
        """
        Return a new connection, in autocommit; raise psycopg.Error after *timeout* seconds, two at least.

        Of several hosts, each has its share of the time, two seconds at least: one that is gone without a word must not
        take the time of the next.
        """
        read = self._read()
        hosts = str(read.get("hostaddr") or read.get("host") or "").count(",") + 1
        share = math.ceil(min(timeout, _LONGEST_PATIENCE / 1000) / hosts)
        given = int(read.get("connect_timeout", "").strip() or 0)
        parameters = {
            # Of a host that is gone without a word, the client learns by these.
            "keepalives_idle": "10",
            "keepalives_interval": "5",
            "keepalives_count": "3",
            "fallback_application_name": "fapilog",
            **read,
            "client_encoding": "utf8",
            "connect_timeout": str(max(2, min(share, given) if given > 0 else share)),
        }
        connection = Connection.connect(make_conninfo(**parameters), autocommit=True, prepare_threshold=None)
        connection.give_up_at(time.monotonic() + timeout)
        return connection

    def _read(self) -> dict[str, Any]:
        """Return the parameters as they are now; raise psycopg.OperationalError if they can't be had."""
        problem = ""
        try:
            if not isinstance(self._dsn, str):
                self._parameters = _parsed(self._dsn())
            if self._password is None:
                return self._parameters
            password = self._password if isinstance(self._password, str) else self._password()
            return {**self._parameters, "password": _clean("password", password)}
        except BaseException as error:
            # Its text may be the secret.
            tamed(error)
            problem = type(error).__qualname__
        # Raised out here, where the error of the function is not behind it. Tried again: a file may come back.
        raise psycopg.OperationalError(f"the DSN or the password can't be read ({problem})")


def _source(name: str, given: Address | Password) -> str | Callable[[], str]:
    if is_async(given) or not (isinstance(given, str) or callable(given)):
        raise TypeError(f"{name}: expected a text, or a function that returns it; got {kind_of(given)}")
    return given


def _clean(name: str, given: str) -> str:
    """Return *given* without spaces around it; raise ValueError, which shows nothing of it, if libpq can't take it."""
    # A surrogate is a byte of a file, or of a variable, that is no UTF-8: the error of an encoder would have all of it.
    if re.search("[\0\ud800-\udfff]", given):
        raise ValueError(f"{name}: expected UTF-8 without a NUL; got something else")
    return given.strip()


def _parsed(dsn: str) -> dict[str, Any]:
    dsn = _clean("dsn", dsn)
    if _UNESCAPED.match(dsn):
        raise ValueError("dsn: expected %40 for an @ and %2F for a / in a user or a password; got one of them as it is")
    parsed: dict[str, Any] | None = None
    with contextlib.suppress(psycopg.ProgrammingError):
        parsed = conninfo_to_dict(dsn)
    if parsed is None:
        raise ValueError("dsn: expected postgresql://HOST/DATABASE or host=HOST dbname=DATABASE")
    if not re.fullmatch(r"\s*(-?[0-9]+\s*)?", str(parsed.get("connect_timeout", ""))):
        raise ValueError("dsn: expected a whole number as connect_timeout; got something else")
    return parsed


def words(error: psycopg.Error) -> str:
    """Return the text of *error*, without the values of a record, which stand in its details."""
    primary = error.diag.message_primary
    said = " ".join((primary or str(error) or type(error).__qualname__).split())
    return escaped(said[:_LONGEST_WORDS]) + (f" ({error.sqlstate})" if error.sqlstate else "")


def _is_passing(error: psycopg.Error) -> bool:
    """Return whether the same call may succeed a moment later."""
    state = error.sqlstate
    if state is None:
        # The server can't be reached, or went away.
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state in _PASSING or state.startswith(_PASSING_CLASSES)


class Link:
    """
    One connection, which makes calls one at a time, and is opened anew after any that failed.

    Threads may use it at the same time. A forked child has to `abandon` it before it uses it.

    Args:
        server: The server to connect to.
        check: Called with every new connection; may raise AuditStorageError.
    """

    def __init__(self, server: Server, check: Callable[[Connection], object]) -> None:
        self._server = server
        self._check = check
        self._turn = Turn(f"cannot use {server}: called from within a call of the same thread")
        self._connection: Connection | None = None
        self._closes: weakref.finalize[[Connection], Link] | None = None
        # Why there is no connection: how the last call failed, this caller's or that of one before it.
        self._problem: str | None = None

    def call(self, what: str, call: Callable[[Connection], T], timeout: float) -> T:
        """
        Return the result of *call*, which is made again after a failure that may pass, for *timeout* seconds.

        Args:
            what: The name of the call, for the message: "append to the trail".
            call: Called with the connection; commits the transaction that it begins.
            timeout: Seconds, from now on.

        Raises:
            AuditStorageError: It failed, for good or until the time was over. The message names server and reason.
        """
        give_up_at = time.monotonic() + timeout
        # The first try may have found a connection that the server has closed long ago.
        pause = 0.0
        while True:
            with self._turn.taken():
                try:
                    return call(self._opened(give_up_at))
                except psycopg.Error as error:
                    self._close()
                    problem, may_pass = words(error) + _GRANTS.get(error.sqlstate or "", ""), _is_passing(error)
                    self._problem = problem
                except BaseException:
                    self._close()
                    raise
            if not may_pass or time.monotonic() + pause >= give_up_at:
                # Outside of the `except`: psycopg's error shows values in its details.
                raise AuditStorageError(f"cannot {what} in {self._server}: {problem}")
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  no secret
            pause = min(max(2 * pause, _PAUSES[0]), _PAUSES[1])

    def close(self) -> None:
        """
        Close it; the next call opens it again.

        Raises:
            AuditStorageError: Called from within a call of the same thread.
        """
        with self._turn.taken():
            self._close()

    def abandon(self) -> None:
        """Forget, in a forked child, the parent's connection: say nothing to the server, and hold no socket."""
        connection, self._connection = self._connection, None
        if self._closes is not None:
            self._closes.detach()
        self._closes = None
        self._turn.forget()
        if connection is not None:
            abandon(connection)

    def _opened(self, give_up_at: float) -> Connection:
        if self._connection is None:
            left = give_up_at - time.monotonic()
            if left <= 0:
                # The callers before this one have waited for the server in vain: else each would wait for its own time
                # behind all of theirs.
                raise psycopg.OperationalError(self._problem or "no answer in time")
            connection = self._server.connect(left)
            self._connection = connection
            self._closes = weakref.finalize(self, _close, connection)
            # The end of the process closes it; a thread may be in a call of it.
            self._closes.atexit = False
            connection.give_up_at(give_up_at)
            self._check(connection)
            self._problem = None
        self._connection.give_up_at(give_up_at)
        return self._connection

    def _close(self) -> None:
        closes, self._closes, self._connection = self._closes, None, None
        if closes is not None:
            closes()


# Never collected: closing them would end the connections of the parent.
_inherited: Final[list[Connection]] = []


def abandon(connection: Connection) -> None:
    """Let go, in a forked child, of a connection of the parent: say nothing to the server, and hold no socket."""
    _inherited.append(connection)
    with contextlib.suppress(OSError, psycopg.Error):
        # While the child has the socket, the server does not see that the parent is gone, and keeps its locks. The
        # number stays taken, so that no other file gets it.
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, connection.pgconn.socket, inheritable=False)
        os.close(nothing)


def _close(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error, OSError):
        connection.close()
