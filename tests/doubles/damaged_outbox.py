"""A file of an outbox in which somebody has written what no outbox would."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, NamedTuple

from hypothesis import strategies as st

from fapilog import PermanentDeliveryError
from fapilog.core.alerting import Alert
from fapilog.delivery.outbox._file.place import OutboxFile
from fapilog.delivery.outbox._file.queue import FileQueue
from fapilog.delivery.outbox._place import Ending, Request, Verdict
from tests.doubles.outboxes import claim
from tests.doubles.scripted_dispatcher import an_event

__all__ = ["GOOD", "NUMBERS", "SPOILED", "Spoilt", "an_outbox", "spoil", "spoil_outbox", "spoils"]

SPOILED: Final = an_event(2)
"""The event of the alert that is spoiled."""
GOOD: Final = (an_event(1), an_event(3))
"""Those of the others in the same outbox."""

_TEXTS: Final = ("outbox", "event_id", "event_type", "severity", "channel", "event", "status", "lease", "reason")
NUMBERS: Final = ("sequence_number", "came_at", "due_at", "noted_at", "attempts", "failures", "spent", "ended_at")
_OF_ATTEMPTS: Final = ("number", "began_at", "took", "outcome", "reason")


class Spoilt(NamedTuple):
    """A value in a column of a table; `as_text` makes text of bytes, be they UTF-8 or not."""

    column: str
    value: object
    table: str = "alerts"
    as_text: bool = False


_values: Final = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.sampled_from([1e300, -1e300, float("inf"), -float("inf"), 2**63 - 1, -(2**63), -1, 1e12, 0.5])
    | st.text(max_size=20)
    | st.text("\x1b[2J\x9b\r\n\u202e'\\", max_size=10)
    | st.binary(max_size=20)
)
_columns: Final = st.sampled_from(
    [*(("alerts", name) for name in _TEXTS + NUMBERS), *(("attempts", name) for name in _OF_ATTEMPTS)]
)
spoils: Final = st.lists(
    st.builds(
        lambda where, value, as_text: Spoilt(where[1], value, where[0], as_text and isinstance(value, bytes)),
        _columns,
        _values,
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


def an_outbox(path: Path, now: float, name: str = "alerts") -> None:
    """Make a file with three alerts; the one that is to be spoiled is dead after an attempt, and due again."""

    def fill(queue: FileQueue) -> None:
        for event in (SPOILED, *GOOD):
            queue.put(name, Alert(event, "critical", "#on-call"), now)
        [claimed] = claim(queue, name, SPOILED, "theirs", now, lasts=60)
        dead = Verdict("permanent", "dead", wait=0.0, failures=1, spent=0.0)
        ending = Ending(claimed, dead, now, took=0.1, reason=str(PermanentDeliveryError("gone")), next_at=0.0)
        queue.exchange(name, Request("theirs", now, 0.0, lasts=60.0, longest_wait=60.0, endings=[ending]))
        queue.retry(name, None, now)

    file = OutboxFile(path)
    file.run([fill])
    file.close()


def spoil(path: Path, spoilt: Iterable[Spoilt]) -> None:
    """Write values into the row of the spoiled alert, and that of its attempt, as far as SQLite lets it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        query = "SELECT id FROM alerts WHERE event_id = ?"
        [(id_,)] = connection.execute(query, (SPOILED.event_id,)).fetchall()
        for column, value, table, as_text in spoilt:
            given = "CAST(? AS TEXT)" if as_text else "?"
            key = "id" if table == "alerts" else "alert"
            # A column that may not be NULL, or a number of an attempt that must be one.
            with suppress(sqlite3.IntegrityError):
                connection.execute(f"UPDATE {table} SET {column} = {given} WHERE {key} = ?", (value, id_))  # noqa: S608


def spoil_outbox(path: Path, column: str, value: object) -> None:
    """Write a value into what is kept of the outbox as a whole."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE outboxes SET {column} = ?", (value,))  # noqa: S608
