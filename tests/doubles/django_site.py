"""The Django site of the tests in this process, with a database and a trail of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SERVERS", "SETTINGS", "audit_settings", "copy_database", "set_up"]

SETTINGS = "tests.integrations.apps.django_site.settings"
SERVERS = "tests.integrations.apps.django_site.servers"


def set_up() -> None:
    """Load the site, once in this process, with an empty database in a directory that is gone at the exit."""
    django = pytest.importorskip("django")
    conf: Any = pytest.importorskip("django.conf")
    if conf.settings.configured:
        return
    directory = tempfile.mkdtemp(prefix="fapilog-site-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.environ |= {"DJANGO_SETTINGS_MODULE": SETTINGS, "SITE": directory}
    try:
        django.setup()
    finally:
        del os.environ["DJANGO_SETTINGS_MODULE"], os.environ["SITE"]
    # The tables as the models have them, and not by the way of years of migrations.
    labels = [each.label for each in pytest.importorskip("django.apps").apps.get_app_configs()]
    with pytest.importorskip("django.test").override_settings(MIGRATION_MODULES=dict.fromkeys(labels)):
        pytest.importorskip("django.core.management").call_command("migrate", run_syncdb=True, verbosity=0)


@contextmanager
def audit_settings(path: Path, **options: Any) -> Iterator[Any]:
    """Have the site's trail in *path*, and yield it."""
    settings: Any = pytest.importorskip("django.conf").settings
    override: Any = pytest.importorskip("django.test").override_settings
    ours: Any = pytest.importorskip("fapilog.integrations.django")
    with override(AUDIT={**settings.AUDIT, "path": path, **options}):
        yield ours.trail


def copy_database(directory: Path) -> None:
    """Copy the database, for a server whose site is *directory*."""
    database = pytest.importorskip("django.conf").settings.DATABASES["default"]["NAME"]
    pytest.importorskip("django.db").connection.close()
    shutil.copy(database, directory / "db.sqlite3")
