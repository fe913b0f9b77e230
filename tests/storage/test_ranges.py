"""Where the records of some times are: all of them are looked at, and few others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog.storage._rows import ranges as _ranges
from fapilog.storage._rows.ranges import ranges, stretches


def looked_at(wanted: set[int], *, low: int, high: int, newest: int) -> list[int]:
    """Return the numbers in the ranges for the numbers *wanted*, in the order in which they are looked at."""
    found = ranges(
        low,
        high,
        some=lambda count: sorted(wanted)[:count],
        newest=lambda before: min(newest, before - 1) if newest else None,
        last=lambda before, count: sorted((each for each in wanted if each < before), reverse=True)[:count],
    )
    return [number for begin, end in found for number in reversed(range(begin + 1, min(end, newest + 1)))]


@given(st.sets(st.integers(1, 60)), st.integers(-1, 61), st.integers(0, 70), st.integers(1, 12))
def test_every_wanted_record_is_looked_at_once(wanted: set[int], low: int, high: int, few: int) -> None:
    """Whichever records have the wanted times, those within the bounds are looked at, once, the newest first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ranges, "_FEW", few)
        patch.setattr(_ranges, "_TOGETHER", 3)
        numbers = looked_at(wanted, low=low, high=high, newest=60)
    assert numbers == sorted(set(numbers), reverse=True)
    assert {number for number in wanted if low < number < high} <= set(numbers)
    assert all(low < number < high for number in numbers)


def test_what_stands_far_away_costs_no_look_at_all_between() -> None:
    """A record whose clock was wrong is looked at by itself."""
    assert len(looked_at({7, *range(999_900, 1_000_001)}, low=-1, high=2**63 - 1, newest=1_000_000)) == 102
    many = {*range(10_000, 16_000), *range(999_900, 1_000_001)}
    assert len(looked_at(many, low=-1, high=2**63 - 1, newest=1_000_000)) < 12_000


def test_of_many_records_the_newest_are_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many have the wanted times to look up each, their times are not looked through for the newest ones."""
    monkeypatch.setattr(_ranges, "_FEW", 10)

    def last(_before: int, _count: int) -> list[int]:
        raise AssertionError("all times are looked at")

    found = ranges(-1, 500, some=range, newest=lambda _: 99, last=last)
    assert next(found) == (89, 500)
    with pytest.raises(AssertionError):
        next(found)


def test_stretches_follow_the_records() -> None:
    """However far a record is from the others, its stretch is the next one, and empty ones are not looked into."""
    numbers = [-(2**63), 0, 5, 2**20 - 1, 2**20, 2**62]

    def newest(before: int) -> int | None:
        return max((number for number in numbers if number < before), default=None)

    assert list(stretches(-1, 2**63 - 1, newest)) == [
        (2**62 - 1, 2**62 + 1),
        (2**20 - 1, 2**20 + 1),
        (-1, 2**20),
    ]
    assert list(stretches(3, 2**20, newest)) == [(3, 2**20)]
    assert list(stretches(5, 2**20 - 1, newest)) == []
    assert list(stretches(-1, 0, newest)) == []
