"""``manage.py audit``: the trail of the site on the command line."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditTrail, MemoryStorage
from tests.doubles import django_site

pytest.importorskip("django")
pytest.importorskip("typer")
django_site.set_up()
management: Any = importlib.import_module("django.core.management")
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


def test_a_trail_that_is_not_in_files_is_refused() -> None:
    """With a storage of one's own the command says so."""
    error: Any = importlib.import_module("django.core.management.base").CommandError
    storage = MemoryStorage()
    with (
        importlib.import_module("django.test").override_settings(AUDIT={"storage": storage}),
        pytest.raises(error, match="not in files"),
    ):
        said("show")
