"""What errors tell: why an alert was not delivered, and how long to wait."""

import math

import pytest

from fapilog import AuditStorageError, FapilogError, OutboxError, PermanentDeliveryError, TransientDeliveryError
from fapilog.record.errors import reason


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(None, None), (0, 0), (7.5, 7.5), (60, 60), (61, 60), (math.inf, 60), (-1, None), (-math.inf, None)],
)
def test_a_pause_is_bounded(told: float | None, seconds: float | None) -> None:
    """The pause is the time that was told, within the bound; a negative time tells nothing."""
    assert TransientDeliveryError("slowly", retry_after=told).pause(60) == seconds


def test_no_number_is_no_pause() -> None:
    """NaN asks for no pause."""
    assert TransientDeliveryError("slowly", retry_after=math.nan).pause(60) is None


@pytest.mark.parametrize(
    "error", [PermanentDeliveryError("words"), OutboxError("words"), AuditStorageError("words"), FapilogError("words")]
)
def test_errors_of_this_package_give_their_words(error: FapilogError) -> None:
    """An error of this package holds no secret, and its text is the reason."""
    assert reason(error) == "words"


def test_a_foreign_error_gives_its_type() -> None:
    """The text of any other exception may hold a secret, and its type is the reason."""
    assert reason(ValueError("https://hooks.example/t0k3n")) == "ValueError"
