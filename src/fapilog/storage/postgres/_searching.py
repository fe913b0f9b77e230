"""The keys that the records of a trail in PostgreSQL are found by."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from ...record.events import AuditEvent
from .._rows.table import Dialect, Question, questions, values_of
from ..protocol import EventFilter

__all__ = ["key_of", "keys_of", "questions_of"]

# An entry of an index has 2,704 bytes at most, and a character four:
# https://www.postgresql.org/docs/current/btree.html
_LONGEST: Final = 200
_KEPT: Final = 100

_DIALECT: Final = Dialect(parameter="%s", contains="position(%s IN line) > 0", unindexed="")


def key_of(value: Any) -> Any:
    """
    Return the key of *value* in a column: the value itself, unless PostgreSQL can't index it.

    A text that is too long is its beginning and its hash, and so is one with a NUL, which no text of PostgreSQL has.
    """
    if not isinstance(value, str) or (len(value) <= _LONGEST and "\0" not in value):
        return value
    return f"{value[:_KEPT].replace(chr(0), '')}\u2026{sha256(value.encode()).hexdigest()}"


def keys_of(event: AuditEvent) -> tuple[Any, ...]:
    """Return the values of the columns for *event*."""
    values = values_of(event)
    # Checked all at once: most texts are short, and checking every one costs more than all the rest of an event.
    texts = [value for value in values if isinstance(value, str)]
    if max(map(len, texts), default=0) <= _LONGEST and "\0" not in "".join(texts):
        return values
    return tuple(map(key_of, values))


def questions_of(wanted: EventFilter) -> list[Question]:
    """Return questions; every wanted record is an answer to at least one."""
    return [question._replace(values=tuple(map(key_of, question.values))) for question in questions(wanted, _DIALECT)]
