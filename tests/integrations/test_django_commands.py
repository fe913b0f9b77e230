"""``manage.py audit``: the trail of the site on the command line."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditTrail, MemoryStorage, SQLiteStorage
from tests.doubles import django_site
from tests.doubles.aged_trails import aged_trail

pytest.importorskip("django")
pytest.importorskip("typer")
django_site.set_up()
management: Any = importlib.import_module("django.core.management")
ours: Any = importlib.import_module("fapilog.integrations.django")
testing: Any = importlib.import_module("django.test")
models: Any = importlib.import_module("fapilog.integrations.django.models")


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[AuditTrail]:
    """Yield the trail of the site, in a directory of its own, with two events."""
    with django_site.audit_settings(tmp_path / "audit") as trail:
        for name in ("alice", "bob"):
            trail.sync.log_data_access("clinic.patient/42", "read", user_id=name)
        yield trail


def said(*arguments: str) -> str:
    """Return what ``manage.py audit`` prints."""
    output = io.StringIO()
    management.call_command("audit", *arguments, stdout=output)
    return output.getvalue()


def test_the_trail_of_the_site_is_shown(trail: AuditTrail) -> None:
    """The commands of `fapilog`, with its options, are about the directory that the settings name."""
    [event] = said("show", "--user", "alice", "--json").splitlines()
    assert json.loads(event)["target"] == {"type": "clinic.patient", "id": "42"}
    assert said("tail", "--last", "1").startswith("2 ")
    assert said("count", "--by", "user_id", "--json") == '{"bob": 1, "alice": 1}\n'


def test_the_trail_of_the_site_is_verified(trail: AuditTrail) -> None:
    """An intact trail is said to be valid, and for one that was changed the exit code is 1."""
    assert said("verify").startswith("valid: 2 records")
    assert trail.storage_path is not None
    [file] = trail.storage_path.glob("*.jsonl")
    file.write_text(file.read_text().replace("alice", "malice"))
    with pytest.raises(SystemExit) as ended:
        said("verify")
    assert ended.value.code == 1


@pytest.mark.real_time
@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_a_trail_in_a_storage_is_shown(kind: str, tmp_path: Path, name: str, request: pytest.FixtureRequest) -> None:
    """The storage that AUDIT has is read as it is, and the site continues to write to it."""
    storage: Any = MemoryStorage()
    if kind == "sqlite":
        storage = SQLiteStorage(tmp_path / "audit.db")
    elif kind == "postgres":
        database = request.getfixturevalue("database")
        storage = importlib.import_module("fapilog").PostgresStorage(database.dsn(user="service"), name)
    with testing.override_settings(AUDIT={"storage": storage}):
        trail = ours.trail
        trail.sync.log_data_access("clinic.patient/42", "read", user_id="alice")
        assert json.loads(said("show", "--json"))["user_id"] == "alice"
        trail.sync.log_data_access("clinic.patient/42", "read", user_id="bob")
        assert said("verify").startswith("valid: 2 records")
        assert said("count", "--by", "operation", "--json") == '{"read": 2}\n'
        with pytest.raises(management.CommandError, match=r"^tail: expected a trail in files"):
            said("tail")


def test_settings_that_are_wrong_are_said() -> None:
    """In a line, and not in a traceback."""
    words = r"^AUDIT\.durabilty: there is no such option; did you mean "
    wrong = testing.override_settings(AUDIT={"path": "audit", "durabilty": "write"})
    with wrong, pytest.raises(management.CommandError, match=words):
        said("show")
    misspelt = testing.override_settings(AUDIT={"path": "audit", "trusted_proxis": 1})
    with misspelt, pytest.raises(management.CommandError, match=r"did you mean trusted_proxies\?$"):
        said("show")


def test_days_in_the_archive_are_shown(tmp_path: Path) -> None:
    """The archive that AUDIT names is asked too, and verified together with the trail."""
    options = {"archive": tmp_path / "archive", "policy": {"retention_days": 30, "archive_after_days": 10}}
    with django_site.audit_settings(aged_trail(tmp_path / "audit", (40, 1)), **options) as trail:
        trail.sync.apply_retention()
        assert said("show", "--user", "user-40", "--json").count("\n") == 3
        assert "records 1 to 3 are in" in said("verify")
