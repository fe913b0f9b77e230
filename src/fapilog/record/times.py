"""
Times as msgspec knows them, in records and files.

freezegun, which many tests use, puts classes of its own in place of `datetime` and `date`: in all modules, and in those
that are imported meanwhile. msgspec encodes and decodes no time of these classes, and evaluates the annotations of a
class when it first decodes one. freezegun looks into no class and no annotated type, and so finds none of these here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

__all__ = ["Day", "Moment", "Standard", "standard_now"]


class Standard:
    """
    The classes of the standard library.

    Attributes:
        date: The class of a day.
        datetime: The class of a time.
    """

    date: type[date] = next(each for each in date.__mro__ if each.__module__ == "datetime")
    datetime: type[datetime] = next(each for each in datetime.__mro__ if each.__module__ == "datetime")


if TYPE_CHECKING:
    Day: TypeAlias = date
    Moment: TypeAlias = datetime
else:
    Day = Annotated[Standard.date, "a day"]
    Moment = Annotated[Standard.datetime, "a time"]


def standard_now() -> datetime:
    """Return the time in UTC."""
    now = datetime.now(UTC)
    if type(now) is Standard.datetime:
        return now
    return Standard.datetime.fromisoformat(now.isoformat()).replace(tzinfo=UTC)
