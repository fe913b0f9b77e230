"""
The ranges of numbers in which a table has the answers to a question, the newest first.

Records are read by their numbers, since the newest are wanted first, and most clocks go forwards: the records of some
times stand together. Where a clock went wrong, some of them stand far away, and all records between are not read.

The users, the sessions and the like come in no order: a record changes a page somewhere in each of their indices. The
longer an index is, the fewer records of a commit share a page, and at ten million records half of the events a second
were left. So an index has the entries of a stretch of a million records together: a commit changes those of the newest
stretch, however long the trail is, and a question looks into one stretch after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

__all__ = ["STRETCH_BITS", "ranges", "stretches"]

STRETCH_BITS: Final = 20
"""The number of a record without so many bits is the number of its stretch."""

# So many numbers are looked up by the times, at most; an index has them in some milliseconds.
_FEW: Final = 5_000

# The records of a page, which are read in the time of a second query.
_TOGETHER: Final = 500


def stretches(low: int, high: int, newest: Callable[[int], int | None]) -> Iterator[tuple[int, int]]:
    """
    Yield ranges between *low* and *high*, each within one stretch, that have all records, the newest first.

    The bounds are in no range themselves.

    Args:
        low: A number smaller than all that are wanted.
        high: A greater one.
        newest: Returns the greatest number of a record that is smaller than one; None if there is none.
    """
    # Asked for, not counted down: the number of a row that was put in may be any.
    while (number := newest(high)) is not None and number > low:
        before = (number >> STRETCH_BITS << STRETCH_BITS) - 1
        yield max(low, before), number + 1
        high = before + 1


def ranges(
    low: int,
    high: int,
    *,
    some: Callable[[int], Sequence[int]],
    newest: Callable[[int], int | None],
    last: Callable[[int, int], Sequence[int]],
) -> Iterator[tuple[int, int]]:
    """
    Yield ranges between *low* and *high* that have all records of the wanted times, the newest first.

    The bounds are in no range themselves. A range is looked for when the ones before it were not enough: where many
    records have the wanted times, *last* takes a look at each of their times.

    Args:
        low: A number smaller than all that are wanted.
        high: A greater one.
        some: Returns the numbers of so many records of the wanted times, or of all if there are fewer.
        newest: Returns the greatest number of a record that is smaller than one; None if there is none.
        last: Returns the greatest numbers of the wanted times that are smaller than one, and so many at most.
    """
    found = some(_FEW)
    if len(found) == _FEW:
        near = max(low, (newest(high) or 0) - _FEW)
        yield near, high
        high = near + 1
        while len(found := last(high, _FEW)) == _FEW and found[-1] > low:
            yield from _together(found)
            high = found[-1]
    for begin, end in _together(sorted(found, reverse=True)):
        if max(low, begin) + 1 < min(high, end):
            yield max(low, begin), min(high, end)


def _together(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges around the *numbers*, the greatest of which is the first, one for those that are close together."""
    begin = 0
    for index, number in enumerate(numbers):
        if index + 1 == len(numbers) or number - numbers[index + 1] > _TOGETHER:
            yield number - 1, numbers[begin] + 1
            begin = index + 1
