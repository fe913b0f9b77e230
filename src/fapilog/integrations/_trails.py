"""The check of the argument that every integration has."""

from __future__ import annotations

from ..core.audit import AuditTrail
from ..record.values import kind_of

__all__ = ["require_trail"]


def require_trail(trail: object) -> None:
    """
    Check that *trail* is an `AuditTrail`: nothing else would fail before the first event, which would be lost.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(trail, AuditTrail):
        raise TypeError(f"trail: expected an AuditTrail; got {kind_of(trail)}")
