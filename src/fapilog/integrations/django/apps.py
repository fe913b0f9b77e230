"""The app, as Django loads it."""

from collections.abc import Iterable
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.core.signals import setting_changed

from ._changes import connect_relations
from ._settings import forget, problems

__all__ = ["AuditConfig", "check_settings"]

_MIDDLEWARE = "fapilog.integrations.django.AuditMiddleware"


class AuditConfig(AppConfig):
    """Connects the receivers, and checks the settings with ``manage.py check``."""

    name = "fapilog.integrations.django"
    label = "fapilog"
    verbose_name = "Audit"
    default_auto_field: Any = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect the receivers, for which all models must be loaded."""
        checks.register(check_settings)
        setting_changed.connect(forget, dispatch_uid="fapilog")
        connect_relations()
        if apps.is_installed("django.contrib.auth"):
            # It imports the models of that app.
            from . import _logins  # noqa: PLC0415

            _logins.connect()


def check_settings(app_configs: Iterable[Any] | None = None, **_: object) -> list[checks.CheckMessage]:  # noqa: ARG001
    """Return the errors in the settings, for ``manage.py check``; a name that AUDIT does not take is an error."""
    found: list[checks.CheckMessage] = [checks.Error(words, id="fapilog.E001") for words in problems()]
    # One of the site's own, a subclass, may have the name; that for ASGI applications is no middleware of Django.
    names = [each for each in settings.MIDDLEWARE if each.endswith(".AuditMiddleware")]
    if not any(each == _MIDDLEWARE or not each.startswith("fapilog.") for each in names):
        hint = f"Add {_MIDDLEWARE!r} to MIDDLEWARE."
        found.append(checks.Warning("Events will not know their request and their user.", hint, id="fapilog.W001"))
    return found
