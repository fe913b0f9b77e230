"""A keyword that was mistyped, of a recording method or of a context: it is no field, but similar to one."""

from __future__ import annotations

import sys
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

from .record.intake import FIELDS
from .record.options import close_matches
from .record.values import given_text
from .tasks.strangers import Log

__all__ = ["look_for_typos"]

_log: Final = Log("fapilog.core.audit")

# Common names for the fields, from other libraries and from everyday use; all without underscores.
_ALIASES: Final = {
    "level": "log_level",
    "severity": "log_level",
    "loglevel": "log_level",
    "user": "user_id",
    "username": "user_id",
    "uid": "user_id",
    "ip": "client_ip",
    "ipaddress": "client_ip",
    "remoteaddr": "client_ip",
    "useragent": "user_agent",
    "exception": "error",
    "exc": "error",
    "excinfo": "error",
    "tags": "regulatory_tags",
    "resource": "target",
    "extra": "metadata",
    "pii": "contains_pii",
    "phi": "contains_phi",
    "id": "event_id",
    "timestamp": "occurred",
}
# The fields, and names that are near none of them. Bounded: an application may make names of data.
_innocent: Final = set(FIELDS)
_MOST_INNOCENT: Final = 1024
_NEAR: Final = 0.8
_LONGEST_NAME: Final = 100
# New names that are looked at in one call, which takes a tenth of a millisecond for each.
_MOST_AT_ONCE: Final = 64
# The places in the code that were warned about; more than any application has, and bounded all the same.
_MAX_PLACES: Final = 1024
_told: Final[set[tuple[str, int, str]]] = set()


def look_for_typos(
    given: Collection[str], possible: AbstractSet[str] = FIELDS, *, strict: bool = False, where: str = ""
) -> None:
    """
    Warn, once per place in the code, about a keyword that is no field but similar to one.

    Args:
        given: The names of the keywords.
        possible: The fields that may have been meant.
        strict: Whether to raise instead.
        where: The beginning of the error's message.

    Raises:
        TypeError: There is such a keyword, and *strict* is set.
    """
    # `log_data_access` has both: the metadata have the target too, where the earlier fapilog had it.
    is_read = "target" in given
    unknown = [name for name in given if name not in _innocent and not (is_read and name == "resource")]
    if not unknown:
        return
    # A key that is no identifier, or a very long one, comes from data: it is neither logged nor remembered.
    new = (name for name in unknown if name.isidentifier() and len(name) <= _LONGEST_NAME)
    names = list(islice(new, _MOST_AT_ONCE))
    similar = {name: near for name in names if (near := _nearest(name))}
    if len(_innocent) > _MOST_INNOCENT:
        _innocent.intersection_update(FIELDS)
    _innocent.update(name for name in names if name not in similar)
    found = {name: near for name, near in similar.items() if near in possible}
    if not found:
        return
    words = ", ".join(f"{name}: did you mean {near}?" for name, near in found.items())
    if strict:
        raise TypeError(f"{where}{words} Values that are no field belong into metadata={{...}}")
    place = (*_caller(), words)
    if place not in _told and len(_told) < _MAX_PLACES:
        _told.add(place)
        _log.warning("%s, line %s: %s Events are stored with the value in their metadata.", *place)


def _nearest(name: str) -> str | None:
    plain = name.lower().replace("_", "")
    if plain in _ALIASES:
        return _ALIASES[plain]
    near = close_matches(plain, _PLAIN, likeness=_NEAR)
    return _PLAIN[near[0]] if near else None


_PLAIN: Final = {name.replace("_", ""): name for name in FIELDS}


def _caller() -> tuple[str, int]:
    """Return the file and the line of the first frame that is not of this package."""
    ours = __name__.partition(".")[0]
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001  # as `warnings` does
    while frame.f_back is not None and given_text(frame.f_globals.get("__name__")).partition(".")[0] == ours:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
