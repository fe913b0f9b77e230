"""Secrets: given as text or by a callable, and shown to nobody."""

import copy
import pickle
from collections.abc import Callable

import pytest

from fapilog import DeliveryError, PermanentDeliveryError, TransientDeliveryError
from fapilog.delivery.fallback import Fallback
from fapilog.providers._secret import Secret
from fapilog.providers.smtp import EmailDispatcher


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
    """What is neither text nor callable, or has to be awaited, is a mistake of type."""

    async def later() -> str:
        raise AssertionError

    with pytest.raises(TypeError, match="token: expected text"):
        Secret(b"t0k3n", "token")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"token: expected text, .*; got an asynchronous function"):
        Secret(later, "token")  # type: ignore[arg-type]


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


def a_dispatcher() -> EmailDispatcher:
    return EmailDispatcher(
        host="localhost", sender="a@example.com", recipients=["b@example.com"], username="u", password="t0k3n"
    )


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kept", [Secret("t0k3n", "token"), a_dispatcher()], ids=lambda each: type(each).__name__)
def test_a_secret_is_not_copied(kept: object, duplicate: Callable[[object], object]) -> None:
    """Neither a secret nor a dispatcher that holds one is copied or pickled, and the error says so."""
    with pytest.raises(TypeError, match=r"holds secrets.*: it is neither copied nor pickled") as caught:
        duplicate(kept)
    assert "t0k3n" not in str(caught.value)


def test_a_wrapper_copies_no_secret() -> None:
    """A wrapper is not copied together with a dispatcher that holds a secret."""
    with pytest.raises(TypeError, match="EmailDispatcher holds secrets"):
        copy.deepcopy(Fallback([a_dispatcher()]))
