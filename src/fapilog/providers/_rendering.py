"""The text of an alert: how much of the event leaves the process, in which words, and within which limits."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from ..record.errordetails import BEGINNING, ErrorDetails
from ..record.events import AuditEvent
from ..record.kinds import member
from ..record.options import require_text
from ..record.values import text
from ..tasks.strangers import Log

__all__ = [
    "Disclosure",
    "Rendered",
    "Renderer",
    "clean",
    "cut",
    "dedup_key",
    "disclosure_table",
    "fit",
    "in_words",
    "least",
    "one_line",
]

_log: Final = Log("fapilog.providers")


class Disclosure(str, Enum):
    """
    How much of an event a dispatcher sends away.

    Attributes:
        MINIMAL: The event type, the severity, the time, the component, and the place in the chain.
        STANDARD: Also the message, the machine, the request and the classification; the default. An event flagged PII
            or PHI is cut to MINIMAL.
        FULL: Also the user, the address, the metadata and the error; flagged or not.
    """

    MINIMAL = "minimal"
    STANDARD = "standard"
    FULL = "full"


_MINIMAL, _STANDARD, _FULL = Disclosure

# Every field of an event, but for the fields about its record, with the level that it needs, in the order in which it
# is shown. The docs' table is made of it, and a test holds that no field of `AuditEvent` is missing.
FIELDS: Final[Mapping[str, Disclosure]] = {
    "event_type": _MINIMAL,
    "log_level": _MINIMAL,
    "outcome": _MINIMAL,
    "message": _STANDARD,
    "timestamp": _MINIMAL,
    "occurred": _MINIMAL,
    "component": _MINIMAL,
    "operation": _STANDARD,
    "hostname": _STANDARD,
    "request_id": _STANDARD,
    "trace_id": _STANDARD,
    "span_id": _STANDARD,
    "data_classification": _STANDARD,
    "compliance_level": _STANDARD,
    "regulatory_tags": _STANDARD,
    # They say why there is no message.
    "contains_pii": _MINIMAL,
    "contains_phi": _MINIMAL,
    "event_id": _MINIMAL,
    "sequence_number": _MINIMAL,
    "checksum": _MINIMAL,
    "previous_hash": _FULL,
    "process_id": _FULL,
    "reason": _FULL,
    "actor": _FULL,
    "user_id": _FULL,
    "session_id": _FULL,
    "client_ip": _FULL,
    "user_agent": _FULL,
    "target": _FULL,
    "changes": _FULL,
    "error": _FULL,
    "metadata": _FULL,
    "truncated": _FULL,
    "not_announced": _FULL,
}
_SHOWN: Final = {
    level: tuple(name for name, needs in FIELDS.items() if list(Disclosure).index(needs) <= number)
    for number, level in enumerate(Disclosure)
}


def disclosure_table() -> str:
    """Return the table of the fields that leave the process, in Markdown."""
    lines = [f"| field | {' | '.join(level.value for level in Disclosure)} |", "|---|---|---|---|"]
    for name in FIELDS:
        marks = ("yes" if name in _SHOWN[level] else "" for level in Disclosure)
        lines.append(f"| `{name}` | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


# Characters of an error's text by which it is recognised where it was cut.
_MUCH: Final = 64
# Characters that browsers and servers take.
_MAX_LINK: Final = 2000


class Rendered(NamedTuple):
    """
    The part of an event that a dispatcher may send.

    Attributes:
        title: One line: severity, kind and place; "SECURITY authentication_failed in auth".
        severity: The severity that the dispatcher got.
        message: The event in words; None if it may not leave. No control characters but line ends and tabs.
        link: The way to the record; None if no template was given, or it became too long.
        details: Every field that may leave and has a value, the message included, as JSON values in the order in which
            to show them. Their texts are as they were recorded: `clean` or escape them.
    """

    title: str
    severity: str
    message: str | None
    link: str | None
    details: dict[str, Any]


class Renderer:
    """
    Makes the `Rendered` of an event.

    Args:
        disclosure: How much of the event may leave.
        link: The address of a record, with ``{event_id}`` and ``{sequence_number}`` to be filled in.

    Raises:
        TypeError: The template is no text.
        ValueError: An unknown disclosure, or a template that is no https or http address or names other fields.
    """

    def __init__(self, disclosure: Disclosure, link: str | None) -> None:
        self._disclosure = member(Disclosure, disclosure, "disclosure")
        self._link = None if link is None else _link_template(link)

    def __call__(self, event: AuditEvent, severity: str) -> Rendered:
        """Return the part of *event* that may leave the process."""
        level = self._disclosure
        if level is not _FULL and (event.contains_pii or event.contains_phi):
            level = _MINIMAL
        return _rendered(event, severity, level, self._link and self._filled(self._link, event))

    def _filled(self, link: str, event: AuditEvent) -> str | None:
        number = "" if event.sequence_number is None else str(event.sequence_number)
        filled = link.format(event_id=quote(event.event_id, safe=""), sequence_number=number)
        # A trail's ids are UUIDs; an id from elsewhere must not make the alert too large.
        return filled if len(filled) <= _MAX_LINK else None


def least(event: AuditEvent, severity: str) -> Rendered:
    """Return the least content of an alert about *event*, for a receiver that refuses more: MINIMAL, and no link."""
    return _rendered(event, severity, _MINIMAL, None)


def _rendered(event: AuditEvent, severity: str, level: Disclosure, link: str | None) -> Rendered:
    details: dict[str, Any] = {}
    for name in _SHOWN[level]:
        # Most fields of most events have none.
        value = getattr(event, name)
        if value is not None and (plain := _plain(value)) is not None:
            details[name] = plain
    if "message" in details and level is not _FULL and event.error is not None:
        details["message"] = _without_text(event.message, event.error)
    severity = text(severity)
    title = [cut(one_line(severity), "severity", max_characters=20).upper(), event.event_type.value]
    if event.component:
        title += ["in", cut(one_line(event.component), "component", max_characters=100)]
    return Rendered(
        title=one_line(" ".join(title)),
        severity=severity,
        message=clean(details["message"]) if details.get("message") else None,
        link=link,
        details=details,
    )


def _without_text(message: str, error: ErrorDetails) -> str:
    """Return *message* with the error's type in place of its text, which is for FULL."""
    # By `log_error`, which may have cut the text, or have got another one of an exception whose text changes.
    if message.startswith(BEGINNING):
        return BEGINNING + error.type
    said = error.message
    if said.isalnum() and len(said) <= _MUCH:
        # Not inside of words: the text of KeyError(1) is "1".
        return re.sub(rf"\b{said}\b", lambda _: error.type, message)
    if said in message:
        return message.replace(said, error.type) if said else message
    beginning, found, _ = message.partition(said[:_MUCH])
    return beginning + error.type if found and len(said) > _MUCH else message


def _plain(value: object) -> Any:
    """Return a field's value as JSON values; None if it need not be shown."""
    if value is False or value in ("", (), {}):
        return None
    if isinstance(value, ErrorDetails):
        # The trail has the traceback, which is longer than most limits.
        return {"type": value.type, "message": value.message}
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, dict) else msgspec.to_builtins(value)


def _link_template(given: str) -> str:
    require_text("link", given, expected="an https or http address")
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(given)]
        scheme = urlsplit(given).scheme
    except ValueError:
        raise ValueError("link: expected an https or http address, with braces that match") from None
    for name, spec, conversion in fields:
        if name is not None and (name not in {"event_id", "sequence_number"} or spec or conversion):
            raise ValueError(f"link: expected {{event_id}} or {{sequence_number}}; got {{{name}}}")
    if scheme not in {"https", "http"} or given != one_line(given) or " " in given:
        raise ValueError("link: expected an https or http address")
    return given


def dedup_key(name: str, *target: str) -> str:
    """
    Return the key by which the other side recognises an alert: 32 hexadecimal digits.

    It is the same after a restart and in every process, and shows nothing of *name* and *target*.

    Args:
        name: The subject of the alert: the event's id, or its `subject_of` where incidents are opened and closed.
        *target: The destination, as far as two dispatchers may send the same alert to one receiver.
    """
    parts = "".join(f"{len(part)}:{part}" for part in (name, *target))
    return hashlib.sha256(parts.encode("utf-8", "backslashreplace")).hexdigest()[:32]


# C0 and C1 controls, line and paragraph separators, and characters that change the direction of the text around them.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_SPACES: Final = re.compile(r"\s+")


def clean(given: str) -> str:
    """Return *given* with line feeds as its line ends, and other controls, escapes of terminals too, as U+FFFD."""
    return _CONTROLS.sub("\ufffd", given.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(given: str) -> str:
    """Return *given* as one line without controls."""
    return _SPACES.sub(" ", clean(_SPACES.sub(" ", given))).strip()


def in_words(value: object) -> str:
    """Return a field's value as clean text: a text as it is, any other value as JSON."""
    return clean(_raw_words(value))


def _raw_words(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def cut(given: str, name: str, *, max_characters: int | None = None, max_bytes: int | None = None) -> str:
    """
    Return *given* within a limit; where it was cut, its end is an ellipsis, and the cut is logged without the text.

    Args:
        given: Any text.
        name: Its name in the log.
        max_characters: The most code points it may have; None for no limit.
        max_bytes: The most bytes it may have in UTF-8; None for no limit.
    """
    kept = given = text(given)
    if max_characters is not None and len(given) > max_characters:
        kept = given[: max_characters - 1] + "…" if max_characters > 0 else ""
    # Four bytes are the most that a code point has.
    if max_bytes is not None and len(kept) * 4 > max_bytes and len(kept.encode()) > max_bytes:
        kept = kept.removesuffix("…").encode()[: max(max_bytes - 3, 0)].decode(errors="ignore")
        kept += "…" if max_bytes >= len("…".encode()) else ""
    if kept != given:
        _log.warning("%s is too long for an alert and was cut; it has %d characters", name, len(given))
    return kept


def fit(details: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """
    Return *details* so that their JSON has at most *max_bytes* bytes.

    The longest field is cut first, to half its length, again and again; one that is not text is cut as its JSON text.
    """
    sizes = {name: len(msgspec.json.encode({name: value})) for name, value in details.items()}
    if sum(sizes.values()) <= max_bytes:
        return details
    fitting = dict(details)
    while sum(sizes.values()) > max_bytes and (long := [name for name in sizes if fitting[name] != "…"]):
        longest = max(long, key=lambda name: sizes[name])
        value = fitting[longest]
        given = _raw_words(value)
        if value is details[longest]:
            _log.warning("%s is too long for an alert and was cut; it has %d characters", longest, len(given))
        given = given.removesuffix("…")
        fitting[longest] = given[: len(given) // 2] + "…"
        sizes[longest] = len(msgspec.json.encode({longest: fitting[longest]}))
    return fitting
