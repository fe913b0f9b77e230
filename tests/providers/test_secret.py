"""Secrets: given as text or by a callable, and shown to nobody."""

import pytest

from fapilog import DeliveryError, PermanentDeliveryError, TransientDeliveryError
from fapilog.providers._secret import Secret


def short(value: str) -> str | None:
    return "at most 6 characters" if len(value) > 6 else None


def test_a_secret_is_text_or_callable() -> None:
    """A callable is asked each time, and space around what it returns is left out."""
    assert Secret(" t0k3n\n", "token", check=short).reveal() == "t0k3n"
    values = iter(["one\n", "two\n"])
    rotating = Secret(lambda: next(values), "token")
    assert [rotating.reveal(), rotating.reveal()] == ["one", "two"]


def test_a_secret_shows_its_name_alone() -> None:
    """Neither repr, str nor format shows a secret."""
    secret = Secret("t0k3n", "token")
    assert {repr(secret), str(secret), f"{secret}"} == {"<secret token>"}


@pytest.mark.parametrize("given", ["", " \n", "t0k3n-that-is-long"])
def test_a_text_is_checked_at_construction(given: str) -> None:
    """A text that is not what is expected is refused at once, without the text."""
    with pytest.raises(ValueError, match=r"^token: expected") as caught:
        Secret(given, "token", check=short)
    assert "t0k3n" not in str(caught.value)


def test_something_else_is_refused() -> None:
    """What is neither text nor callable is a mistake of type."""
    with pytest.raises(TypeError, match="token: expected text"):
        Secret(b"t0k3n", "token")  # type: ignore[arg-type]


def failure(secret: Secret) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        secret.reveal()
    assert caught.value.__context__ is None
    assert "t0k3n" not in str(caught.value)
    return caught.value


def test_a_callable_that_raises_is_transient() -> None:
    """A vault that is away may come back; what it said stays behind."""

    def away() -> str:
        raise OSError("/vault/t0k3n is away")

    assert isinstance(failure(Secret(away, "token")), TransientDeliveryError)


@pytest.mark.parametrize("returned", ["", "t0k3n-that-is-long", b"t0k3n", None])
def test_a_callable_that_returns_something_else_is_permanent(returned: object) -> None:
    """What a callable returns is checked as a text is at construction."""
    assert isinstance(failure(Secret(lambda: returned, "token", check=short)), PermanentDeliveryError)  # type: ignore[arg-type,return-value]
