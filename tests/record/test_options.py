"""The check of numbers that options are given."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fapilog.record.options import did_you_mean, require, require_path, several

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


@pytest.mark.parametrize("value", [Decimal("1.5"), Fraction(3, 2)])
def test_another_kind_of_number_becomes_a_float(value: Any) -> None:
    """A number that no clock can be added to is one that it can."""
    number = require("timeout", value, above=0)
    assert type(number) is float
    assert number == 1.5


OUT_OF_RANGE: list[tuple[float, dict[str, Any], str]] = [
    (0, {"above": 0}, "timeout: expected a number above 0; got 0"),
    (-1, {"above": 0}, "timeout: expected a number above 0; got -1"),
    (math.nan, {"above": 0}, "timeout: expected a number above 0; got nan"),
    (0, {"at_least": 1}, "timeout: expected a number of at least 1; got 0"),
    (math.nan, {"at_least": 1}, "timeout: expected a number of at least 1; got nan"),
    (math.inf, {"above": 0, "finite": True}, "timeout: expected a finite number above 0; got inf"),
    (10**400, {"at_least": 0, "finite": True}, f"timeout: expected a finite number of at least 0; got {10**400}"),
    (10**400, {"above": 0}, f"timeout: expected a finite number above 0; got {10**400}"),
    (math.nan, {"at_most": 5}, "timeout: expected a number of at most 5; got nan"),
    (6, {"above": 0, "at_most": 5}, "timeout: expected a number above 0 and of at most 5; got 6"),
]


@pytest.mark.parametrize(("value", "limits", "words"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused(value: float, limits: dict[str, Any], words: str) -> None:
    """A number beyond a limit, and NaN, is refused with the option, its limits and the number."""
    with pytest.raises(ValueError, match=r"^timeout: expected") as caught:
        require("timeout", value, **limits)
    assert str(caught.value) == words


KINDS = [
    ("5", "a str"),
    (None, "None"),
    ([5], "a list"),
    (1j, "a complex"),
    (True, "a bool"),
    (object(), "an object"),
    (int, "the class int"),
    (Decimal("sNaN"), "a Decimal"),
    (Fraction(10**400), "a Fraction"),
]


@pytest.mark.parametrize(("value", "kind"), KINDS)
def test_another_type_is_refused(value: Any, kind: str) -> None:
    """A value that is no number is refused by its type; its text, which may be a secret, is not in the message."""
    with pytest.raises(TypeError) as caught:
        require("timeout", value, above=0)
    assert str(caught.value) == f"timeout: expected a number; got {kind}"


@pytest.mark.parametrize(("value", "kind"), [(1.5, "a float"), (1.0, "a float"), *KINDS])
def test_a_whole_number_is_asked_for(value: Any, kind: str) -> None:
    """Where only a whole number has a meaning, any other is refused by its type."""
    with pytest.raises(TypeError, match=f"^limit: expected a whole number; got {kind}$"):
        require("limit", value, at_least=0, whole=True)
    assert require("limit", 1, at_least=0, whole=True) == 1


@pytest.mark.parametrize(
    ("value", "values"),
    [("abc", ("abc",)), ("", ("",)), (["a", "b"], ("a", "b")), ((), ()), (iter("ab"), ("a", "b"))],
)
def test_one_text_is_one_value(value: Any, values: tuple[str, ...]) -> None:
    """A text among the iterables stands for itself, and not for its letters."""
    assert several("ids", value) == values


@pytest.mark.parametrize(
    ("value", "kind"), [(5, "an int"), (None, "None"), (b"abc", "a bytes"), (bytearray(b"abc"), "a bytearray")]
)
def test_what_is_no_list_is_refused(value: Any, kind: str) -> None:
    """What can't be gone through, and bytes, which are numbers to Python, are refused by their type."""
    with pytest.raises(TypeError, match=f"^ids: expected one text, or a list; got {kind}$"):
        several("ids", value)


def test_a_path_may_be_in_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that begins with a tilde is in the home directory, and any other stays as it is."""
    monkeypatch.setenv("HOME", "/home/alice")
    assert require_path("path", "~/audit") == Path("/home/alice/audit")
    assert require_path("path", Path("~/audit")) == Path("/home/alice/audit")
    assert require_path("path", "a/~") == Path("a/~")


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (5, TypeError, "path: expected a path; got an int"),
        (None, TypeError, "path: expected a path; got None"),
        (b"audit", TypeError, "path: expected a path; got a bytes"),
        ("", ValueError, "path: expected a path; got an empty text"),
        ("a\0b", ValueError, r"path: expected a path; got 'a\x00b', which no file can be called"),
        ("\ud800", ValueError, r"path: expected a path; got '\ud800', which no file can be called"),
        ("postgresql://u:hunter2@h/d", ValueError, "path: expected a path; got an address, postgresql://..."),
        (Path("s3://clinic/eu"), ValueError, "path: expected a path; got an address, s3:/..."),
        (":memory:", ValueError, "path: expected a path; got an address, :memory:..."),
        ("file:audit.db?mode=ro", ValueError, "path: expected a path; got an address, file:..."),
        ("~nobody-has-this-name/x", ValueError, "path: expected a path in a home directory that is known; got '~nob"),
    ],
)
def test_what_is_no_path_is_refused(value: Any, error: type[Exception], words: str) -> None:
    """What can't be a path is refused with what came."""
    with pytest.raises(error, match=f"^{re.escape(words)}"):
        require_path("path", value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("timeuot", "; did you mean timeout?"),
        ("TIMEOUT", "; did you mean timeout?"),
        ("att", "; did you mean attempts?"),
        ("colour", ""),
        ("", ""),
    ],
)
def test_the_nearest_name_is_suggested(given: str, words: str) -> None:
    """A name that is nearly one of those that are possible brings that one to mind, and no other does."""
    assert did_you_mean(given, ["timeout", "attempts"]) == words


def test_a_huge_name_takes_no_time() -> None:
    """However long a name is that is compared with others, only its beginning is."""
    assert did_you_mean("timeout" * 1_000_000, ["timeout"]) == ""
