"""The check of numbers that options are given."""

import math
from typing import Any

import pytest

from fapilog.record.options import require

IN_RANGE: list[tuple[float, dict[str, Any]]] = [
    (1, {"above": 0}),
    (0.001, {"above": 0}),
    (math.inf, {"above": 0}),
    (0, {"at_least": 0}),
    (-1, {"at_most": 0}),
    (65_535, {"at_least": 1, "at_most": 65_535}),
    (1e300, {"at_least": 0, "finite": True}),
]


@pytest.mark.parametrize(("value", "limits"), IN_RANGE)
def test_a_number_in_range_is_returned(value: float, limits: dict[str, Any]) -> None:
    """A number within all of its limits comes back as it was."""
    assert require("timeout", value, **limits) is value


OUT_OF_RANGE: list[tuple[float, dict[str, Any], str]] = [
    (0, {"above": 0}, "timeout: expected a number above 0; got 0"),
    (-1, {"above": 0}, "timeout: expected a number above 0; got -1"),
    (math.nan, {"above": 0}, "timeout: expected a number above 0; got nan"),
    (0, {"at_least": 1}, "timeout: expected a number of at least 1; got 0"),
    (math.nan, {"at_least": 1}, "timeout: expected a number of at least 1; got nan"),
    (math.inf, {"above": 0, "finite": True}, "timeout: expected a finite number above 0; got inf"),
    (math.nan, {"at_most": 5}, "timeout: expected a number of at most 5; got nan"),
    (6, {"above": 0, "at_most": 5}, "timeout: expected a number above 0 and of at most 5; got 6"),
]


@pytest.mark.parametrize(("value", "limits", "words"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused(value: float, limits: dict[str, Any], words: str) -> None:
    """A number beyond a limit, and NaN, is refused with the option, its limits and the number."""
    with pytest.raises(ValueError, match=r"^timeout: expected") as caught:
        require("timeout", value, **limits)
    assert str(caught.value) == words


@pytest.mark.parametrize("value", ["5", None, [5], 1j, object()])
def test_another_type_is_refused(value: Any) -> None:
    """A value that is no number is refused by its type; its text, which may be a secret, is not in the message."""
    with pytest.raises(TypeError) as caught:
        require("timeout", value, above=0)
    assert str(caught.value) == f"timeout: expected a number; got a {type(value).__qualname__}"


@pytest.mark.parametrize("value", [1.5, 1.0, "1", None])
def test_a_whole_number_is_asked_for(value: Any) -> None:
    """Where only a whole number has a meaning, any other is refused by its type."""
    with pytest.raises(TypeError, match=f"^limit: expected a whole number; got a {type(value).__qualname__}$"):
        require("limit", value, at_least=0, whole=True)
    assert require("limit", 1, at_least=0, whole=True) == 1
