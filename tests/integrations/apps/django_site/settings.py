"""The settings of the site."""

import os
from pathlib import Path

BASE_DIR = Path(os.environ.get("SITE", Path(__file__).parent))
SECRET_KEY = os.environ.get("SECRET_KEY", "of the tests")
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
USE_TZ = True
ROOT_URLCONF = "tests.integrations.apps.django_site.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STATIC_URL = "static/"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
        # Writers wait for each other.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "tests.integrations.apps.django_site",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

# -- the audit trail

INSTALLED_APPS += ["fapilog.integrations.django"]
MIDDLEWARE = ["fapilog.integrations.django.AuditMiddleware", *MIDDLEWARE]
AUDIT = {
    "path": BASE_DIR / "audit",
    "dispatcher": {"type": "console"},  # prints alerts
    "policy": {"level": "hipaa"},
    "trusted_proxies": 1,
}
# The tests look at the alerts.
AUDIT["dispatcher"] = "tests.integrations.apps.django_site.alerts.Pager"
