"""The labels of alerts: few values, and none that came from outside."""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["OTHER", "SECONDS", "label"]

OTHER: Final = "other"

# From a dispatcher in the process to the end of a full buffer that waits for one that hangs.
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


# The event types of your own that get a label, the first ones. A type that is made of data would have a series per
# value.
_MOST_OWN: Final = 50
_own: Final[set[str]] = set()


def label(kind: type[Enum], value: object) -> str:
    """
    Return *value* as one of the values of *kind*, or as one of the first 50 that are your own, or "other".

    Any code may send `compliance_alert` by hand, with any severity and about any event.
    """
    try:
        found = kind(value)
    except ValueError:
        return OTHER
    name = str(found.value)
    if found not in list(kind) and name not in _own:
        if len(_own) >= _MOST_OWN:
            return OTHER
        _own.add(name)
    return name
