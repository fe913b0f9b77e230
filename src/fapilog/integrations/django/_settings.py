"""The setting AUDIT: its options, its errors, and the trail that it describes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ...config import options_from_config
from ...config._hints import KEYS
from ...core.audit import AuditTrail
from ...record.options import did_you_mean, require_callable
from ...record.values import kind_of
from ...tasks.strangers import Log
from .._failures import logged
from .._requests import RequestOptions

__all__ = [
    "OfRequest",
    "begin",
    "forget",
    "has_begun",
    "id_of",
    "of_request",
    "problems",
    "recording",
    "trail",
    "trail_options",
]

_log: Final = Log("fapilog")

_OF_REQUEST: Final = ("trusted_proxies", "proxy_header", "request_id_header", "user_id", "log_requests")
_IMPORTED: Final = frozenset({"user_id", "log_requests"})
_MADE_HERE: Final = frozenset({"dispatcher", "storage"})
_KNOWN: Final = (*(KEYS.get(name, name) for name in signature(AuditTrail).parameters), "dispatchers", *_OF_REQUEST)


# The attribute that the trail has when it is made.
_MADE: Final = "_is_made"


def _username(user: Any) -> object:
    return user.get_username()


@dataclass(frozen=True, kw_only=True)
class OfRequest(RequestOptions):
    """
    How a request is read.

    Attributes:
        user_id: Returns the id of a user.

    Raises:
        TypeError: A value is of the wrong kind.
        ValueError: A value can't be.
    """

    user_id: Callable[[Any], object] = _username

    def __post_init__(self) -> None:
        require_callable("user_id", self.user_id, expected="a function of the user, or its dotted path", takes=1)
        super().__post_init__()


def _given() -> dict[str, Any]:
    given = getattr(settings, "AUDIT", None)
    if not isinstance(given, Mapping):
        got = "nothing" if given is None else kind_of(given)
        raise ImproperlyConfigured(f"AUDIT: expected a dict such as {{'path': BASE_DIR / 'audit'}}; got {got}")
    return dict(given)


def problems() -> list[str]:
    """Return the errors in the setting AUDIT, one sentence per error, without a secret."""
    try:
        given = _given()
    except ImproperlyConfigured as error:
        return [str(error)]
    found = _misfits(given)
    for check in () if found else (trail_options, of_request):
        try:
            check()
        except ImproperlyConfigured as error:
            found += str(error).splitlines()
    return found


def _misfits(given: Mapping[str, Any]) -> list[str]:
    found = [f"AUDIT.{name}: there is no such option{_meant(str(name))}" for name in given if name not in _KNOWN]
    if given.get("path") is None and given.get("storage") is None:
        # A relative default would be another directory for `manage.py audit` than for the server.
        found.append("AUDIT.path: expected the directory of the trail, such as BASE_DIR / 'audit'; got nothing")
    return found


def _meant(name: str) -> str:
    return did_you_mean(KEYS.get(name, name), _KNOWN) or f"; there are {', '.join(_KNOWN)}"


def of_request() -> OfRequest:
    """
    Return how a request is read.

    Raises:
        ImproperlyConfigured: AUDIT does not say it rightly.
    """
    options: dict[str, Any] = {name: value for name, value in _given().items() if name in _OF_REQUEST}
    for name in _IMPORTED.intersection(options):
        options[name] = _imported(name, options[name])
    try:
        return OfRequest(trail=trail, **options)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"AUDIT.{error}") from error


def id_of(user: Any) -> Any:
    """Return the id of a user, as AUDIT has it; None, and the error is logged, if it can't be read."""
    try:
        return of_request().user_id(user)
    except Exception as error:
        _log.error("the id of a user can't be read: %s", type(error).__qualname__)
        return None


def trail_options() -> dict[str, Any]:
    """
    Return the arguments of the trail.

    Raises:
        ImproperlyConfigured: AUDIT does not describe one.
    """
    given = _given()
    # Also where no check of Django has run, as under gunicorn.
    if found := _misfits(given):
        raise ImproperlyConfigured("\n".join(found))
    config = {name: value for name, value in given.items() if name not in _OF_REQUEST}
    for name in _MADE_HERE.intersection(config):
        config[name] = _made(name, config[name])
    try:
        return options_from_config(config, where="AUDIT")
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(str(error)) from error


def _imported(name: str, value: Any) -> Any:
    """Return *value*, or the object that it is the dotted path of."""
    if not isinstance(value, str):
        return value
    if "." not in value:
        words = f"expected an object, or its dotted path such as 'shop.audit.{name}'"
        raise ImproperlyConfigured(f"AUDIT.{name}: {words}; got {value[:100]!r}")
    try:
        return import_string(value)
    except ImportError as error:
        raise ImproperlyConfigured(f"AUDIT.{name}: {value} can't be imported: {error}") from error


def _made(name: str, value: Any) -> Any:
    """Return *value*; of a dotted path its object, or the result of calling that if it is a class or a function."""
    # One of the dispatchers may be meant by its name, which has no dot.
    if not isinstance(value, str) or (name == "dispatcher" and "." not in value):
        return value
    found = _imported(name, value)
    is_one = hasattr(found, "send_alert") or hasattr(found, "append") or not callable(found)
    if is_one and not isinstance(found, type):
        return found
    try:
        return found()
    except TypeError as error:
        raise ImproperlyConfigured(f"AUDIT.{name}: {value} can't be called: {error}") from error


class _TrailOfSettings(AuditTrail):
    """
    The trail that the setting AUDIT describes; the setting is read when the trail is used first.

    So every module may import it, the settings and the models included. It is a trail and no proxy: a receiver may be
    connected with the trail as the sender of the signal.
    """

    def __init__(self) -> None:
        """Do nothing yet."""

    def __getattr__(self, name: str) -> Any:
        # Called for an attribute that is missing, as all are before the trail is made.
        if name.startswith("__"):
            raise AttributeError(name)
        with _lock:
            if _MADE not in self.__dict__:
                super().__init__(**trail_options())
                self.__dict__[_MADE] = True
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        return super().__repr__() if _MADE in self.__dict__ else "<AuditTrail of the setting AUDIT, not used yet>"


_lock = threading.RLock()
_begun_in: list[int] = []


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  a thread of the parent may hold it
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)

trail: AuditTrail = _TrailOfSettings()
"""The trail that the setting AUDIT describes."""


def has_begun() -> bool:
    """Return whether `begin` was called in this process."""
    return _begun_in == [os.getpid()]


def begin() -> None:
    """
    Start the trail, once per process, so that alerts which an earlier process left are sent.

    Not when the application is loaded: gunicorn may do that before it forks. A dispatcher that can't be entered is
    logged, and tried again with the first alert.
    """
    if has_begun():
        return
    _begun_in[:] = [os.getpid()]
    try:
        trail.sync.start()
    except Exception as error:
        _log.error("the audit trail can't be started, its first alert tries again: %s", type(error).__qualname__)


recording: Final = partial(logged, "an event of Django is not recorded")
"""
Around code that records an event: a failure is logged, since the site has made its change by then.

An event that can't be stored opens an incident of the trail, which alerts. The trail is asked for inside of the block:
its first use raises where the setting AUDIT is wrong.
"""


def forget(*, setting: str, **_: object) -> None:
    """Read AUDIT anew with the next use of the trail, where a test has changed it: a receiver of `setting_changed`."""
    if setting != "AUDIT" or _MADE not in trail.__dict__:
        return
    try:
        trail.sync.stop()
    except Exception as error:
        _log.error("the audit trail can't be stopped: %s", type(error).__qualname__)
    finally:
        trail.__dict__.clear()
        _begun_in.clear()
