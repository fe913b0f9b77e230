"""
The ranges of numbers in which a table has the records of some times.

Records are read by their numbers, since the newest are wanted first, and most clocks go forwards: the records of some
times stand together. Where a clock went wrong, some of them stand far away, and all records between are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

__all__ = ["ranges"]

# So many numbers are looked up by the times, at most; an index has them in some milliseconds.
_FEW: Final = 5_000

# The records of a page, which are read in the time of a second query.
_TOGETHER: Final = 500


def ranges(
    low: int,
    high: int,
    *,
    numbers: Callable[[int], Sequence[int]],
    newest: Callable[[], int | None],
    span: Callable[[], Sequence[int]],
) -> Iterator[tuple[int, int]]:
    """
    Yield ranges between *low* and *high* that have all records of the wanted times, the newest first.

    The bounds are in no range themselves. A range is looked for when the ones before it were not enough: that of many
    records takes a look at each of their times.

    Args:
        low: A number smaller than all that are wanted.
        high: A greater one.
        numbers: Returns the numbers of so many records of the wanted times, or of all if there are fewer.
        newest: Returns the number of the newest record before *high*; None if there is none.
        span: Returns the numbers of the first and the last record of the wanted times.
    """
    found = sorted(numbers(_FEW), reverse=True)
    if len(found) < _FEW:
        yield from _clipped(low, high, _together(found))
        return
    near = max(low, (newest() or 0) - _FEW)
    yield near, high
    first, last = span()
    yield from _clipped(low, near + 1, [(first - 1, last + 1)])


def _together(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ranges around the *numbers*, the greatest of which is the first, one for those that are close together."""
    begin = 0
    for index, number in enumerate(numbers):
        if index + 1 == len(numbers) or number - numbers[index + 1] > _TOGETHER:
            yield number - 1, numbers[begin] + 1
            begin = index + 1


def _clipped(low: int, high: int, found: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for begin, end in found:
        if max(low, begin) + 1 < min(high, end):
            yield max(low, begin), min(high, end)
