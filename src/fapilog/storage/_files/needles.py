"""The bytes by which a record that is asked for is found, before any is decoded."""

from __future__ import annotations

import re
from typing import Final, cast

from ...record.formats import AS_THEY_ARE
from ...record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ...record.parties import Target
from ..protocol import EQUAL, EventFilter

__all__ = ["needles_of"]

# From 10 to the power of 16 on, a float is written with an exponent.
_TOO_LONG: Final = 10**15


def needles_of(wanted: EventFilter) -> list[bytes]:
    """
    Return byte strings that every wanted record has, so that records without them need not be decoded.

    Records are written by one encoder, which writes equal values as equal bytes. A value gives no needle if it has
    characters that the encoder escapes, or escaped in some version.
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
    parts += [(name.rpartition(".")[2], '":', str(value), "") for name, value in found if _is_plain_number(value)]
    parts += [("", '"', wanted.tag, '"')] if wanted.tag is not None else []
    parts += [("", "", wanted.message, "")] if wanted.message else []
    # For a target, the end that format 1 has too, in "resource"; for an actor, the value of any member.
    parts += [("", "", target.id, '"')] if (target := cast("Target | None", wanted.target)) and target.id else []
    parts += [("", '"', wanted.actor, '"')] if wanted.actor is not None else []
    return ["".join(each).encode() for each in parts if re.fullmatch(AS_THEY_ARE, each[0] + each[2])]


def _is_plain_number(value: object) -> bool:
    # An equal float is written with the same digits in front of its point; only 0 and 1 are equal to False and True.
    return type(value) is int and 1 < abs(value) < _TOO_LONG
