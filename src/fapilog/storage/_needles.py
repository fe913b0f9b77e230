"""The bytes by which a record that is asked for is found, before any is decoded."""

from __future__ import annotations

import re
from typing import Final, cast

from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ..record.parties import Target
from .protocol import EQUAL, EventFilter

__all__ = ["needles_of"]

# The encoder of records writes these characters as they are, and did in each version.
_AS_THEY_ARE: Final = re.compile(r"[ !#-\[\]-~]*")


def needles_of(wanted: EventFilter) -> list[bytes]:
    """
    Return bytes that each record has which is wanted, so that no other needs to be decoded.

    Records are written by one encoder, which writes equal values as equal bytes. A value with other characters than
    those that it has always written as they are gives no needle.
    """
    found = [(name, getattr(wanted, name)) for name in EQUAL]
    found += (wanted.metadata or {}).items()
    # A tuple by now.
    kinds = cast("tuple[AuditEventType, ...]", wanted.event_type or ())
    if len(kinds) == 1:
        found.append(("event_type", kinds[0].value))
    if wanted.log_level is not None:
        found.append(("log_level", AuditLogLevel(wanted.log_level).value))
    if wanted.outcome is not None:
        found.append(("outcome", AuditOutcome(wanted.outcome).value))
    # In front of a value in the metadata stands the end of its path, whether that is a name or the end of one.
    parts = [(name.rpartition(".")[2], '":"', value, '"') for name, value in found if isinstance(value, str)]
    parts += [("", '"', wanted.tag, '"')] if wanted.tag is not None else []
    parts += [("", "", wanted.message, "")] if wanted.message else []
    # Of a target, what format 1 has too, as the end of "resource"; of an actor, whatever member it is.
    parts += [("", "", target.id, '"')] if (target := cast("Target | None", wanted.target)) and target.id else []
    parts += [("", '"', wanted.actor, '"')] if wanted.actor is not None else []
    return ["".join(each).encode() for each in parts if _AS_THEY_ARE.fullmatch(each[0] + each[2])]
