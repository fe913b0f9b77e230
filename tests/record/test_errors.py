"""What errors tell: why an alert was not delivered, and how long to wait."""

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from fapilog import (
    AmbiguousDeliveryError,
    AuditStorageError,
    FapilogError,
    OutboxError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.core.alerting import pause_of
from fapilog.record.errors import reason


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(None, None), (0, 0), (7.5, 7.5), (60, 60), (61, 60), (math.inf, 60), (-1, None), (-math.inf, None)],
)
def test_a_pause_is_bounded(told: float | None, seconds: float | None) -> None:
    """The pause is the time that was told, within the bound; a negative time tells nothing."""
    assert pause_of(TransientDeliveryError("slowly", retry_after=told), 60) == seconds


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("7.5", 7.5), (b"7", 7), (Decimal("7.5"), 7.5), (10**400, 60), (-(10**400), None), ("nan", None), ("1e999", 60)],
)
def test_what_can_be_read_as_a_number_is_one(told: Any, seconds: float | None) -> None:
    """A dispatcher may tell the text of a header, or a number of any kind."""
    assert pause_of(TransientDeliveryError("slowly", retry_after=told), 60) == seconds


class Unreadable:
    def __float__(self) -> float:
        raise LookupError


@pytest.mark.parametrize("told", [math.nan, "Wed, 21 Oct 2015 07:28:00 GMT", "", 1j, [7], timedelta(1), Unreadable()])
def test_no_number_is_no_pause(told: Any) -> None:
    """NaN asks for no pause, and neither does anything else that is no number."""
    assert pause_of(TransientDeliveryError("slowly", retry_after=told), 60) is None


def test_an_error_with_a_constructor_of_its_own() -> None:
    """A subclass that does not call our constructor asks for no pause, and is not repeatable."""

    class Busy(TransientDeliveryError):
        def __init__(self) -> None: ...

    class Lost(AmbiguousDeliveryError):
        def __init__(self) -> None: ...

    assert pause_of(Busy(), 60) is None
    assert not Lost().repeatable


def test_a_property_that_raises_is_no_pause() -> None:
    """A subclass may look for the time in an answer that has none, and may have a member "pause" of its own."""

    class Throttled(TransientDeliveryError):
        pause = 30.0

        @property
        def retry_after(self) -> float:
            raise KeyError("retry-after")

        @retry_after.setter
        def retry_after(self, _: float | None) -> None: ...

    assert pause_of(Throttled("slowly"), 60) is None


@pytest.mark.parametrize(
    "error", [PermanentDeliveryError("words"), OutboxError("words"), AuditStorageError("words"), FapilogError("words")]
)
def test_errors_of_this_package_give_their_words(error: FapilogError) -> None:
    """An error of this package holds no secret, and its text is the reason."""
    assert reason(error) == "words"


def test_an_error_without_words_gives_its_type() -> None:
    """A reason is never empty."""
    assert reason(PermanentDeliveryError("")) == "PermanentDeliveryError"


def test_a_reason_is_bounded() -> None:
    """A reason is kept with each attempt: the page that a dispatcher puts into its error is cut."""
    assert reason(PermanentDeliveryError("x" * 10_000)) == "x" * 1999 + "…"


def test_a_foreign_error_gives_its_type() -> None:
    """The text of any other exception may hold a secret, and its type is the reason."""
    assert reason(ValueError("https://hooks.example/t0k3n")) == "ValueError"
