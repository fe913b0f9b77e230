"""Alerts as an attacker would write them, each by its number, to try on what renders them."""

import random
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, ErrorDetails
from fapilog.providers import Disclosure
from fapilog.providers._rendering import Rendered, Renderer, least
from tests.providers.conftest import an_event

__all__ = ["Check", "Hostile", "check_many", "hostile_alert", "is_clean", "texts"]


class Hostile(NamedTuple):
    """
    An alert that means no good.

    Attributes:
        event: What it is about.
        severity: A severity, or anything else.
        channel: A channel, or anything else; in one of three alerts None.
        disclosure: At which level to render it.
    """

    event: AuditEvent
    severity: str
    channel: str | None
    disclosure: Disclosure


_WORDS: Final = (
    *("<!channel>", "<!here|x>", "<!subteam^S1>", "<@U1>", "@everyone", "@here", "<https://evil.example|bank>"),
    *("<script>alert(1)</script>", "<a href='https://evil.example'>", "&lt;!channel&gt;", "&", "*b* _i_ `c` ~s~", "|"),
    *("\r\n", "\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\r\nBcc: all@example.com", "\r\n.\r\n", "\n.\n"),
    *("=?utf-8?q?x=0D=0ABcc:_e@example.com?=", "=?utf-8?b?DQpCY2M6IGU=?=", "=?", "?=", "..", ":", "=", ","),
    *("\x00", "\x1b[31m", "\x1b]0;t\x07", "\x7f", "\x9b", "\u202e", "\u2066", "\u200e", "\u061c", "\ufeff", "\u200b"),
    *("\ud83d", "\udc00", "\ud800\udc00", "\udfff\ud800", "\U0001f9d1", "e\u0301" * 30, "\u1e9e", "é", "€", "\uffff"),
    *(
        "{event_id}",
        "{{ .Labels }}",
        '{{ template "x" }}',
        "%s%n",
        "${jndi:ldap://x}",
        "$(id)",
        "{",
        "}",
        "'",
        '"',
        "\\",
    ),
    *(
        "\\u003c!channel\\u003e",
        "null",
        "NaN",
        "-0",
        "1e999",
        "sha256:" + "0" * 64,
        "../..",
        " ",
        "\t",
        "",
        "a",
        "word",
    ),
)
_NAMES: Final = (
    *("message", "component", "operation", "user_id", "session_id", "request_id", "client_ip", "user_agent"),
    *("hostname", "data_classification", "event_id"),
)
_SIZES: Final = (0, 1, 2, 5, 20, 100)
_SEVERITIES: Final = [level.value for level in AuditLogLevel]


def hostile_alert(number: int) -> Hostile:
    """Return the alert with that number, always the same."""
    chance = random.Random(number)  # noqa: S311  the same for everyone is the point

    def words() -> str:
        if not chance.randrange(40):  # longer than any limit but PagerDuty's
            return chance.choice(_WORDS) * chance.randrange(1, 20_000)
        if not chance.randrange(4):
            return "".join(chr(chance.randrange(0x11_0000)) for _ in range(chance.choice(_SIZES)))
        return "".join(chance.choice(_WORDS) for _ in range(chance.choice(_SIZES)))

    def value(depth: int) -> Any:
        match chance.randrange(8 if depth else 6):
            case 0 | 1 | 2:
                return words()
            case 3:
                return chance.choice([None, True, -1, 2**70, 10**400, 1.5, float("nan"), b"\xff", datetime.now(UTC)])
            case 4:
                return chance.getrandbits(64)
            case 5:
                return object()
            case 6:
                return [value(depth - 1) for _ in range(chance.randrange(5))]
            case _:
                return {words(): value(depth - 1) for _ in range(chance.randrange(5))}

    event = an_event(
        **{name: words() for name in _NAMES if chance.randrange(2)},
        event_type=chance.choice(list(AuditEventType)),
        error=chance.choice([None, ErrorDetails.of(ValueError(words()))]),
        contains_pii=not chance.randrange(5),
        regulatory_tags=tuple(words() for _ in range(chance.choice([0, 1, 30]))),
        metadata={words(): value(3) for _ in range(chance.randrange(4))},
    )
    return Hostile(
        event,
        chance.choice([*_SEVERITIES, *_SEVERITIES, words()]),
        chance.choice([None, words(), words()]),
        chance.choice(list(Disclosure)),
    )


Check = Callable[[Rendered, str | None], None]
"""Renders an alert for a channel, and fails unless what comes out is as it must be."""


def check_many(check: Check, count: int, *, first: int = 0) -> None:
    """Check *count* alerts from number *first* on, each whole and with the least in it; a failure tells which."""
    for number in range(first, first + count):
        event, severity, channel, disclosure = hostile_alert(number)
        link = "https://audit.example.com/{event_id}?n={sequence_number}" if number % 2 else None
        try:
            check(Renderer(disclosure, link)(event, severity), channel)
            check(least(event, severity), channel)
        except Exception as error:
            raise AssertionError(f"hostile_alert({number}): {type(error).__name__}: {error}") from error


def texts(value: Any) -> list[str]:
    """Return every text in JSON values, names included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for each in value.items() for part in each for text in texts(part)]
    return [text for each in value for text in texts(each)] if isinstance(value, list) else []


_LINES: Final = {"\n", "\t"}


def is_clean(words: str, allowed: set[str] = _LINES) -> bool:
    """Whether *words* have no controls but those that are allowed, and nothing that turns their direction."""
    bad = {"\u061c", "\u200e", "\u200f", "\ufeff", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
    return not any(
        each in bad or unicodedata.category(each) in {"Cc", "Zl", "Zp", "Cs"} for each in set(words) - allowed
    )
