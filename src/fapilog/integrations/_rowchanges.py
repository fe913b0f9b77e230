"""A change of a row of the application's database, as an event: its words, and the values that it does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from .._typos import look_for_typos
from ..record.intake import FIELDS, LEAST_RECORD, CommonFields, recorded
from ..record.kinds import AuditEventType, AuditOutcome
from ..record.parties import Target
from ..record.values import LEAST_TEXT, given_tags, given_text
from ._secrets import MASK, is_secret

__all__ = ["Changes", "RowChange", "key_part", "masked", "require_fields"]

Changes = Mapping[str, tuple[Any, Any]]
"""The old value and the new one of each field that differs, by its name."""

# Each change says these itself, or they are the id and the time of one event alone.
_NOT_SHARED: Final = (FIELDS - frozenset(CommonFields.__annotations__)) | {
    *("event_type", "message", "event_id", "occurred"),
}


def masked(changes: Changes, is_masked: Callable[[str], bool]) -> Changes:
    """Return *changes* without the values of fields that hold secrets by their names, or that *is_masked* names."""
    return {
        name: (_hidden(old), _hidden(new)) if is_secret(name) or is_masked(name) else (old, new)
        for name, (old, new) in changes.items()
    }


def key_part(value: object, names: Iterable[str], is_masked: Callable[[str], bool]) -> str:
    """Return a part of the primary key of a row for its target, masked as a change of one of these *names* would be."""
    return MASK if any(is_secret(name) or is_masked(name) for name in names) else given_text(value)


def _hidden(value: object) -> str | None:
    return None if value is None else MASK


def require_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the *fields* of the events of all changes: with others, no change would be recorded later.

    Raises:
        TypeError: A name is that of a field that changes do not share, or nearly that of a field; or a value is not of
            its type.
        ValueError: An unknown level or outcome.
    """
    look_for_typos(fields, strict=True)
    shared = dict(fields)
    if "regulatory_tags" in shared:
        # An iterator would have them once.
        shared["regulatory_tags"] = tuple(given_tags(shared["regulatory_tags"]))
    for name in sorted(_NOT_SHARED.intersection(fields)):
        raise TypeError(f"{name}: expected fields that all changes share; got that of a single event")
    # As when an event is stored, with limits that do not matter.
    given = {"event_type": AuditEventType.DATA_MODIFICATION, "message": ""}
    recorded(given, dict(shared), limits=(LEAST_TEXT, LEAST_TEXT, LEAST_RECORD))
    return shared


@dataclass(frozen=True, repr=False)
class RowChange:
    """
    An event that is to be stored; its `repr` shows nothing of it, since crash reporters print local variables.

    Attributes:
        operation: "create", "update" or "delete".
        target: The row.
        changes: The fields that differ.
        fields: Further fields of the event.
    """

    operation: Literal["create", "update", "delete"]
    target: Target
    changes: Changes
    fields: Mapping[str, Any]

    def log(self, trail: Any) -> Any:
        """Store it by the methods of a trail, with ``await`` or without; return their result."""
        fields = {"operation": self.operation, "outcome": AuditOutcome.SUCCESS, **self.fields}
        if self.operation == "update":
            return trail.log_change(self.target, self.changes, **fields)
        kind, word = _WORDS[self.operation]
        return trail.log_event(kind, f"{word} {self.target}", target=self.target, changes=self.changes, **fields)


_WORDS: Final = {
    "create": (AuditEventType.DATA_MODIFICATION, "Created"),
    "delete": (AuditEventType.DATA_DELETION, "Deleted"),
}
