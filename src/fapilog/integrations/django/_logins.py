"""Sign-ins, failed sign-ins and sign-outs: receivers of Django's signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed

from ...record.kinds import AuditEventType
from ._settings import id_of, recording, trail

__all__ = ["connect"]


def connect() -> None:
    """Record sign-ins, failures and sign-outs from now on; nothing happens if they are recorded already."""
    user_logged_in.connect(_logged_in, dispatch_uid="fapilog")
    user_login_failed.connect(_login_failed, dispatch_uid="fapilog")
    user_logged_out.connect(_logged_out, dispatch_uid="fapilog")


def _logged_in(*, user: Any, **_: object) -> None:
    backend = getattr(user, "backend", None)
    metadata = backend and {"backend": backend}
    with recording():
        trail.sync.log_authentication(success=True, user_id=id_of(user), metadata=metadata)


def _login_failed(*, credentials: Mapping[str, Any], **_: object) -> None:
    with recording():
        trail.sync.log_authentication(success=False, user_id=_name_in(credentials))


def _name_in(credentials: Mapping[str, Any]) -> Any:
    # Django has replaced passwords and tokens in them, and fields of one's own may have other names.
    names = (get_user_model().USERNAME_FIELD, "username")
    return next((credentials[each] for each in names if credentials.get(each) is not None), None)


def _logged_out(*, user: Any, **_: object) -> None:
    if user is not None:  # whose session had not ended already
        with recording():
            trail.sync.log_event(AuditEventType.SESSION_ENDED, "Signed out", user_id=id_of(user))
