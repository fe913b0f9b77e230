"""Secrets, given as text or by a callable, that are not printed by accident."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence

from ..record.errors import BrokenRouteError, TransientDeliveryError
from ..record.options import is_async, several
from ..record.privacy import Uncopied
from ..record.values import kind_of

__all__ = ["Secret", "SecretSource", "check_printable", "is_loopback", "sources"]

SecretSource = str | Callable[[], str]
"""
A secret as text, or a function that returns it.

A callable is called for every attempt, so that a file, the environment or a vault can change the secret. It is called
on the event loop: it must return at once. Space around the secret, such as the end of a file's line, is left out.
"""


class Secret(Uncopied):
    """
    A secret of a dispatcher; its `repr` shows the name alone, and it is neither copied nor pickled.

    Args:
        source: The secret, or a function that returns it.
        name: The option that it came by.
        check: Returns the expectation, such as "32 characters", if the text does not meet it; else None.

    Raises:
        TypeError: *source* is neither text nor callable, or asynchronous.
        ValueError: *source* is text, and empty or not as *check* expects. The text is not in the message.
    """

    def __init__(self, source: SecretSource, name: str, *, check: Callable[[str], str | None] = lambda _: None) -> None:
        self._source = source
        self._name = name
        self._check = check
        if isinstance(source, str):
            complaint = self._complaint(source.strip())
            if complaint is not None:
                raise ValueError(complaint)
        elif is_async(source) or not callable(source):
            raise TypeError(f"{name}: expected text, or a function that returns it; got {_no_source(source)}")

    def __repr__(self) -> str:
        return f"<secret {self._name}>"

    def reveal(self) -> str:
        """
        Return the secret as it is now.

        Raises:
            TransientDeliveryError: The callable raised; its text is not in the message, nor behind it.
            BrokenRouteError: The callable returned an unexpected value.
        """
        if isinstance(self._source, str):
            return self._source.strip()
        value: object = None
        failure: str | None = None
        try:
            value = self._source()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            failure = type(error).__qualname__
        # Raised out here, where the foreign error is not behind it.
        if failure is not None:
            raise TransientDeliveryError(f"{self._name}: the function that returns it raised {failure}")
        if not isinstance(value, str):
            raise BrokenRouteError(f"{self._name}: expected text; got {kind_of(value)}")
        complaint = self._complaint(value.strip())
        if complaint is not None:
            raise BrokenRouteError(complaint)
        return value.strip()

    def _complaint(self, value: str) -> str | None:
        if not value:
            return f"{self._name}: expected text; got an empty one"
        complaint = self._check(value)
        return None if complaint is None else f"{self._name}: expected {complaint}"


def sources(name: str, given: SecretSource | Sequence[SecretSource]) -> Sequence[SecretSource]:
    """
    Return the secrets *given*, of which one may be given alone; `Secret` refuses what is none.

    Raises:
        TypeError: It is bytes; the message begins with *name*.
        ValueError: There is none.
    """
    found: tuple[SecretSource, ...]
    found = (given,) if callable(given) or not isinstance(given, Iterable) else several(name, given)
    if not found:
        raise ValueError(f"{name}: expected at least one; got none")
    return found


def _no_source(source: object) -> str:
    # As `os.environ.get` returns it.
    if source is None:
        return "None: is the variable not set?"
    return "an asynchronous function" if is_async(source) else kind_of(source)


def check_printable(value: str) -> str | None:
    """Check that *value* can stand in a header."""
    return None if value.isascii() and value.isprintable() and " " not in value else "printable ASCII without spaces"


def is_loopback(host: str) -> bool:
    """Return whether *host* is this machine, to which a secret may go unencrypted."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
