"""Sign-ins, sign-outs and changed credentials of a Flask application: receivers of other extensions' signals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Final

from ..context import current_audit_context
from ..core.audit import AuditTrail
from ..record.kinds import AuditEventType, AuditOutcome
from ..record.parties import Target
from ..record.values import unreadable
from ..tasks.strangers import tamed
from ._failures import logged

__all__ = ["Logins", "current_user_id"]

_Receiver = Callable[..., None]
_Change = tuple[AuditEventType, str, str]

# The signals of Flask-Security: the event type, the operation, and the message. The signals carry tokens, forms and
# addresses besides, which are not recorded. https://flask-security.readthedocs.io/en/stable/api.html#signals
_CHANGES: Final[dict[str, _Change]] = {
    "user_registered": (AuditEventType.ACCOUNT_CHANGED, "register", "User registered"),
    "user_confirmed": (AuditEventType.ACCOUNT_CHANGED, "confirm", "User confirmed the email address"),
    "change_email_confirmed": (AuditEventType.ACCOUNT_CHANGED, "change email", "Email address changed"),
    "username_changed": (AuditEventType.ACCOUNT_CHANGED, "change username", "Username changed"),
    "password_changed": (AuditEventType.CREDENTIAL_CHANGED, "change password", "Password changed"),
    "password_reset": (AuditEventType.CREDENTIAL_CHANGED, "reset password", "Password reset"),
    "us_profile_changed": (AuditEventType.CREDENTIAL_CHANGED, "change sign-in", "Ways to sign in changed"),
    "wan_registered": (AuditEventType.CREDENTIAL_CHANGED, "add passkey", "Passkey added"),
    "wan_deleted": (AuditEventType.CREDENTIAL_CHANGED, "delete passkey", "Passkey deleted"),
    "tf_profile_changed": (AuditEventType.MFA_CHANGED, "change second factor", "Second factor changed"),
    "tf_disabled": (AuditEventType.MFA_CHANGED, "disable second factor", "Second factor disabled"),
}


class Logins:
    """
    Records the signals of Flask-Login and Flask-Security for an application, as far as it has imported them.

    The signals hold their receivers weakly: the receivers of an application live as long as this object.

    Args:
        app: The application.
        trail: Stores the events.
    """

    def __init__(self, app: Any, trail: AuditTrail) -> None:
        self._trail = trail
        self._receivers: list[_Receiver] = []
        # The modules that the application has not imported yet, with the receivers of their signals.
        self._missing: dict[str, dict[str, _Receiver]] = {
            "flask_login.signals": {
                "user_logged_in": self._logged_in,
                "user_logged_out": self._logged_out,
                "user_login_confirmed": self._login_confirmed,
                "user_loaded_from_cookie": self._remembered,
            },
            "flask_security.signals": {
                "user_authenticated": self._authenticated,
                "user_failed_authn": self._failed,
                **{name: self._changed(*change) for name, change in _CHANGES.items()},
            },
        }
        self.connect(app)

    def connect(self, app: Any, **_: object) -> None:
        """
        Connect to the signals of the modules that the application has imported since the last call; a receiver itself.

        An installed extension that the application does without is not imported for it.
        """
        for module in [each for each in self._missing if sys.modules.get(each)]:
            try:
                signals = import_module(module)  # waits while another thread imports it
            except ImportError:
                continue
            receivers = self._missing.pop(module, {})
            for name, receive in receivers.items():
                # An older version has fewer of them.
                if (signal := getattr(signals, name, None)) is not None:
                    receiver = _contained(receive)
                    self._receivers.append(receiver)
                    signal.connect(receiver, sender=app)

    # -- of Flask-Login: https://flask-login.readthedocs.io/en/latest/#signals

    def _logged_in(self, app: Any, *, user: Any = None, **_: object) -> None:
        # Flask-Security signs in by Flask-Login, and then signals itself how.
        if "security" not in app.extensions:
            self._trail.sync.log_authentication(success=True, user_id=_id_of(user))

    def _logged_out(self, _app: Any, *, user: Any = None, **_: object) -> None:
        if (user_id := _id_of(user)) is not None:
            self._trail.sync.log_event(
                AuditEventType.SESSION_ENDED,
                "Signed out",
                user_id=user_id,
                operation="sign out",
                outcome=AuditOutcome.SUCCESS,
            )

    def _login_confirmed(self, _app: Any, **_: object) -> None:
        self._trail.sync.log_authentication(success=True, method="confirm sign-in")

    def _remembered(self, _app: Any, *, user: Any = None, **_: object) -> None:
        # The user may be loaded because an event asks for it. Such code has no context; the end of the request has.
        log = partial(self._trail.sync.log_authentication, success=True, user_id=_id_of(user), method="remember cookie")
        import_module("flask").after_this_request(partial(_then, log))

    # -- of Flask-Security

    def _authenticated(self, _app: Any, *, user: Any, authn_via: Any = None, **_: object) -> None:
        method = ", ".join(map(str, authn_via or ())) or None
        self._trail.sync.log_authentication(success=True, user_id=_id_of(user), method=method)

    def _failed(self, _app: Any, *, user: Any, auth_type: Any = None, tfa: Any = False, **_: object) -> None:
        metadata = {"second_factor": True} if tfa else None
        self._trail.sync.log_authentication(success=False, user_id=_id_of(user), method=auth_type, metadata=metadata)

    def _changed(self, kind: AuditEventType, operation: str, message: str) -> _Receiver:
        def receive(_app: Any, *, user: Any, method: Any = None, methods: Any = None, **_: object) -> None:
            whose = _id_of(user)
            self._trail.sync.log_event(
                kind,
                message,
                operation=operation,
                outcome=AuditOutcome.SUCCESS,
                target=Target(type="user", id=whose),
                # An administrator may change another user's; and no user is signed in while a password is reset.
                user_id=current_audit_context().get("user_id") or whose,
                metadata={"method": method or methods} if method or methods else None,
            )

        return receive


def current_user_id() -> Any:
    """Return, in a request, the id of Flask-Login's current user; None if the application does not use it."""
    if not hasattr(import_module("flask").current_app, "login_manager"):
        return None
    return _id_of(import_module("flask_login").current_user)


def _id_of(user: Any) -> Any:
    """
    Return the *id* of a user; for a user without one, the id that Flask-Login uses.

    The latter can be an alternative token, which ends sessions when it changes, as that of Flask-Security is.
    https://flask-login.readthedocs.io/en/latest/#alternative-tokens

    In the place of an id that can't be read, as of a user whose row is gone, is a text that says so.
    """
    try:
        return user.id if hasattr(user, "id") else user and user.get_id()
    except BaseException as error:
        return unreadable(user, tamed(error))


def _contained(receive: _Receiver) -> _Receiver:
    """Return a receiver that raises nothing into the code that signals: an error is logged, by its type."""

    def call_or_wait(app: Any, **given: Any) -> None:
        call = partial(receive, app, **given)
        if _is_new(given.get("user")):
            import_module("flask").after_this_request(partial(_then, call))
        else:
            _record(call)

    return call_or_wait


def _record(call: Callable[[], object]) -> None:
    with logged("a signal of the application is not recorded"):
        call()


def _is_new(user: Any) -> bool:
    """
    Return whether the database will give *user* an id when Flask-Security commits, at the end of this request.

    It does in a function after the view that it gave to Flask before it signalled.
    """
    try:
        return getattr(user, "id", "") is None and import_module("flask").has_request_context()
    except BaseException as error:
        tamed(error)
        return False


def _then(call: Callable[[], object], response: Any) -> Any:
    _record(call)
    return response
