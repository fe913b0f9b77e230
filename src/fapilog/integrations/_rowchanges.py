"""A change of a row of the application's database, as an event: its words, and the values that it does not have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..record.kinds import AuditEventType, AuditOutcome
from ..record.parties import Target

__all__ = ["Changes", "RowChange", "is_secret", "masked"]

Changes = Mapping[str, tuple[Any, Any]]
"""The old value and the new one of each field that differs, by its name."""

_MASK: Final = "********"
# Whole words, so that an author and a monkey are not taken for an authorization and a key.
_SECRET: Final = re.compile(
    r"(^|_)(passwords?|passwd|passphrases?|secrets?|tokens?|(api|private|secret|access)_?keys?|signatures?|otp|totp|salt"
    r"|recovery_codes|uniquifier)(_|$)"
)
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_secret(name: str) -> bool:
    """Return whether a field with this *name* holds a secret: "password_hash", "apiKey"."""
    return _SECRET.search(_HUMP.sub("_", name).lower()) is not None


def masked(changes: Changes, is_masked: Callable[[str], bool]) -> Changes:
    """Return *changes* without the values of fields that hold secrets by their names, or that *is_masked* names."""
    return {
        name: (_hidden(old), _hidden(new)) if is_secret(name) or is_masked(name) else (old, new)
        for name, (old, new) in changes.items()
    }


def _hidden(value: object) -> str | None:
    return None if value is None else _MASK


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
