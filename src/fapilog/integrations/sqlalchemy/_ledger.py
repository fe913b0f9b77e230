"""
The changes that a transaction makes to the rows of a database, flush by flush, and their sum at its end.

A row may be created, changed several times, renamed and deleted in one transaction. An auditor asks for the change by
the transaction: the values before it against the values after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

__all__ = ["UNKNOWN", "Changed", "Created", "Deleted", "Key", "Outcome", "outcomes"]

UNKNOWN: Final = "(unknown)"
"""In place of an old value that was never read."""

Key = tuple[Any, tuple[Any, ...]]
"""Which row: where it is, and its primary key."""


@dataclass(frozen=True, repr=False)
class _Step:
    """
    The change of a row by a flush.

    Attributes:
        kind: The mapped class of the row, for the reader of the outcome.
        key: The row, as it is called afterwards.
        values: The new values of a row that was created or changed; the old values of one that was deleted.
        context: The `audit_context` of the flush.
    """

    kind: Any
    key: Key
    values: Mapping[str, Any]
    context: Mapping[str, Any]


class Created(_Step):
    """A row was created."""


class Deleted(_Step):
    """A row was deleted."""


@dataclass(frozen=True, repr=False)
class Changed(_Step):
    """
    A row was changed.

    Attributes:
        before: The row, as it was called before.
        old: The old values of the changed columns.
    """

    before: Key
    old: Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Outcome:
    """
    The change of a row by a transaction.

    Attributes:
        operation: "create", "update" or "delete".
        kind: The mapped class of the row, by the last flush that touched it.
        key: The row, as it was called before the transaction, if it was there.
        changes: The old value and the new one of the fields that differ; None where there was no row, or is none.
        context: The `audit_context` of that flush.
    """

    operation: Literal["create", "update", "delete"]
    kind: Any
    key: Key
    changes: dict[str, tuple[Any, Any]]
    context: Mapping[str, Any]


@dataclass(repr=False)
class _Row:
    """A row that the transaction touched: as it was before, if it was there, and as it is after all."""

    origin: Key | None
    last: _Step
    old: dict[str, Any] = field(default_factory=dict)
    new: dict[str, Any] | None = None


def outcomes(steps: Iterable[_Step]) -> list[Outcome]:
    """Return the outcomes for the rows that the *steps* of a transaction, in order, have changed in the end."""
    rows: dict[Key, _Row] = {}
    for step in steps:
        before = step.before if isinstance(step, Changed) else step.key
        row = rows.pop(before, None)
        if row is None:
            row = _Row(None if isinstance(step, Created) else before, step)
        row.last = step
        if isinstance(step, Deleted):
            row.old = {**step.values, **row.old}
            row.new = None
            if row.origin is None:
                continue
        elif isinstance(step, Changed):
            # A value that was changed before has its old one already.
            row.old = {**step.old, **row.old}
            row.new = {**(row.new or {}), **step.values}
        else:
            row.new = dict(step.values)
        rows[step.key] = row
    return [outcome for key, row in rows.items() if (outcome := _outcome(key, row)) is not None]


def _outcome(key: Key, row: _Row) -> Outcome | None:
    if row.origin is None:
        changes = {name: (None, value) for name, value in (row.new or {}).items() if value is not None}
        return Outcome("create", row.last.kind, key, changes, row.last.context)
    if row.new is None:
        changes = {name: (value, None) for name, value in row.old.items() if value is not None}
        return Outcome("delete", row.last.kind, row.origin, changes, row.last.context)
    pairs = {name: (row.old.get(name, UNKNOWN), value) for name, value in row.new.items()}
    changes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return Outcome("update", row.last.kind, row.origin, changes, row.last.context) if changes else None
