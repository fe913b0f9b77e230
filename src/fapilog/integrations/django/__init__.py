"""
An app for Django: every event knows its request and its user, and sign-ins and changes of models are recorded.

    INSTALLED_APPS += ["fapilog.integrations.django"]
    MIDDLEWARE = ["fapilog.integrations.django.AuditMiddleware", *MIDDLEWARE]
    AUDIT = {"path": BASE_DIR / "audit", "dispatcher": "clinic.alerts.pager", "trusted_proxies": 1}

Then, in views, models, tasks and commands:

    from fapilog.integrations.django import trail

    trail.sync.log_data_access("patient/42", "read")  # and in asynchronous views: await trail.log_data_access(...)
"""

from ..._extras import needs

with needs("django"):
    from ._changes import audited, target_of
    from ._middleware import AuditMiddleware
    from ._settings import trail

__all__ = ["AuditMiddleware", "audited", "target_of", "trail"]
