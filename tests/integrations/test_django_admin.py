"""The trail in Django's admin, driven by Django's client."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fapilog import AuditEventType, AuditTrail, NoopAlertDispatcher
from tests.doubles import django_site

pytest.importorskip("django")
django_site.set_up()
auth: Any = importlib.import_module("django.contrib.auth.models")
testing: Any = importlib.import_module("django.test")
management: Any = importlib.import_module("django.core.management")
models: Any = importlib.import_module("tests.integrations.apps.django_site.models")
page: Any = importlib.import_module("fapilog.integrations.django._page")
admin: Any = importlib.import_module("django.contrib.admin")
timezone: Any = importlib.import_module("django.utils.timezone")
urlconf: Any = importlib.import_module("django.urls")
ours: Any = importlib.import_module("fapilog.integrations.django.admin")
events: Any = importlib.import_module("fapilog.integrations.django.models")

TRAIL = "/admin/fapilog/event/"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[AuditTrail]:
    """Yield the trail of the site, in a directory of its own."""
    with django_site.audit_settings(tmp_path / "audit", dispatcher=NoopAlertDispatcher()) as trail:
        yield trail


def client_of(name: str, *permissions: str, is_superuser: bool = False) -> Any:
    """Return a client of a member of the staff."""
    user = auth.User(username=name, is_staff=True, is_superuser=is_superuser)
    auth.User.objects.bulk_create([user])
    user.user_permissions.set(auth.Permission.objects.filter(codename__in=permissions))
    client = testing.Client()
    client.force_login(user)
    return client


@pytest.fixture
def auditor() -> Iterator[Any]:
    """Yield a client who may see the trail and the patients, and nothing else."""
    yield client_of("auditor", "view_event", "view_patient", "view_badge")
    auth.User.objects.filter(username="auditor").delete()


def numbers(client: Any, **asked: str) -> list[int]:
    """Return the numbers of the events on the page, in order."""
    response = client.get(TRAIL, asked)
    assert response.status_code == 200
    return [int(each) for each in re.findall(rf'href="{TRAIL}(\d+)/change/"', response.content.decode())]


def test_the_trail_is_shown_and_filtered(trail: AuditTrail, auditor: Any) -> None:
    """The page has the events that are asked for, the newest first."""
    trail.sync.log_data_access("clinic.patient/42", "read", user_id="alice", request_id="r-1")
    trail.sync.log_data_access("clinic.patient/43", "read", user_id="bob", client_ip="192.0.2.7", outcome="success")
    trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, "a door was open")
    trail.sync.log_event("billing.refund", "of 7 EUR")
    first = min(event.sequence_number or 0 for event in trail.sync.get_events(user_id="alice"))
    alice, bob, door, refund = range(first, first + 4)
    assert numbers(auditor, user_id="alice") == [alice]
    assert numbers(auditor, target="clinic.patient/43") == [bob]
    assert numbers(auditor, min_level="security", user_id="") == [door]
    assert numbers(auditor, event_type="billing.refund") == [refund]
    assert numbers(auditor, outcome="success", client_ip="192.0.2.7") == [bob]
    assert numbers(auditor, request_id="r-1") == [alice]
    assert numbers(auditor, message="door") == [door]
    assert numbers(auditor, start_time="2100-01-01") == []
    with testing.override_settings(USE_TZ=False):
        assert numbers(auditor, start_time="2100-01-01 12:00") == []
    assert numbers(auditor, end_time="2100-01-01", before=str(bob)) == [alice, *range(first - 1, 0, -1)]
    assert numbers(auditor)[-4 - (first - 1) :][:4] == [refund, door, bob, alice]


def test_the_last_day_is_included(trail: AuditTrail, auditor: Any) -> None:
    """To a day means to its end, with time zones and without, and to a time means to that time."""
    trail.sync.log_data_access("clinic.patient/42", "read", user_id="eve")
    [event] = trail.sync.get_events(user_id="eve")
    for use_tz in (True, False):
        with testing.override_settings(USE_TZ=use_tz):
            day = timezone.localtime(event.timestamp).date()
            assert numbers(auditor, user_id="eve", start_time=str(day), end_time=str(day)) == [event.sequence_number]
            assert numbers(auditor, user_id="eve", end_time=f"{day} 00:00") == []
            assert numbers(auditor, user_id="eve", end_time=str(day - timedelta(1))) == []


def test_what_can_not_be_asked_is_said_beside_the_field(trail: AuditTrail, auditor: Any) -> None:
    """A wrong question has no events and an error, and no traceback."""
    trail.sync.log_data_access("clinic.patient/42", "read")
    for name, wrong, words in (
        ("event_type", "refund", "a type of your own with a dot"),
        ("start_time", "yesterday", "Enter a valid date/time."),
        ("min_level", "loud", "Select a valid choice."),
        ("before", "-1", ""),
    ):
        response = auditor.get(TRAIL, {name: wrong})
        assert response.status_code == 200
        assert words in response.content.decode()
        assert "No events." in response.content.decode()


def test_the_trail_is_paged(trail: AuditTrail, auditor: Any) -> None:
    """However long the trail is, a page has fifty events, and a link to the older ones that keeps the filter."""
    for number in range(page.PAGE + 10):
        trail.sync.log_data_access(f"clinic.patient/{number}", "read", user_id="a&b")
    response = auditor.get(TRAIL, {"user_id": "a&b"})
    text = response.content.decode()
    assert text.count("/change/") == page.PAGE
    [older] = re.findall(r'href="\?([^"]*before=[^"]*)"', text)
    assert "user_id=a%26b" in older
    text = auditor.get(f"{TRAIL}?{unescape(older)}").content.decode()
    assert text.count("/change/") == 10
    assert "before=" not in text


def test_only_who_may_sees_the_trail(trail: AuditTrail) -> None:
    """Without the permission there is no page and no link; with it nothing can be added, changed or deleted."""
    event_id = trail.sync.log_data_access("clinic.patient/42", "read")
    [event] = trail.sync.get_events(event_id=event_id)
    one = f"{TRAIL}{event.sequence_number}"
    other = client_of("other", "view_patient")
    assert TRAIL not in other.get("/admin/").content.decode()
    assert {other.get(path).status_code for path in (TRAIL, f"{one}/change/", f"{one}/history/")} == {403}
    assert testing.Client().get(TRAIL).status_code == 302

    root = client_of("root", is_superuser=True)
    before = trail.sync.head()
    assert root.get(f"{one}/change/").status_code == 200
    assert {root.get(path).status_code for path in (f"{TRAIL}add/", f"{one}/delete/")} == {403}
    posted = [root.post(path, {"post": "yes"}) for path in (TRAIL, f"{one}/change/", f"{one}/delete/", f"{TRAIL}add/")]
    assert {each.status_code for each in posted} == {403}
    assert trail.sync.holds(before)
    assert trail.sync.verify_chain_from_storage().valid
    assert events.Event._default_manager.count() == 0
    auth.User.objects.filter(username__in=["other", "root"]).delete()


def test_looking_is_recorded(trail: AuditTrail, auditor: Any) -> None:
    """Who looks at the trail, and what for, is an event of the trail."""
    auditor.get(TRAIL, {"user_id": "alice"}, headers={"x-request-id": "r-1"})
    [event] = trail.sync.get_events(event_type="audit_log_access")
    assert (event.user_id, event.request_id) == ("auditor", "r-1")
    assert event.metadata["page"] == f"{TRAIL}?user_id=alice"


def test_who_looks_has_the_id_that_users_have(tmp_path: Path, auditor: Any) -> None:
    """The function in AUDIT that says what a user is called holds in the admin, too."""
    with django_site.audit_settings(tmp_path, user_id=lambda user: f"u-{user.get_username()}") as trail:
        auditor.get(TRAIL)
        [event] = trail.sync.get_events(event_type="audit_log_access")
        assert event.user_id == "u-auditor"


def test_one_event_is_shown_whole(trail: AuditTrail, auditor: Any) -> None:
    """The page of an event has its members, its metadata, its error and its changes."""
    event_id = trail.sync.log_change(
        "clinic.patient/42", {"name": ("Ann", "Anna")}, reason="ticket 7", metadata={"a": [1]}
    )
    [event] = trail.sync.get_events(event_id=event_id)
    text = auditor.get(f"{TRAIL}{event.sequence_number}/change/").content.decode()
    for words in (
        event_id,
        "ticket 7",
        "type clinic.patient, id 42",
        "[1]",
        "<td>Ann</td><td>Anna</td>",
        event.checksum,
    ):
        assert words is not None
        assert words in text
    trail.sync.log_error(ValueError("of the test"))
    [error] = trail.sync.get_events(event_type="error_occurred")
    assert "of the test" in auditor.get(f"{TRAIL}{error.sequence_number}/change/").content.decode()
    assert {auditor.get(f"{TRAIL}{each}/change/").status_code for each in ("0", "99999", "x", "9" * 30)} == {404}


def test_nothing_that_is_recorded_can_be_part_of_the_page(trail: AuditTrail, auditor: Any) -> None:
    """Markup is shown as text everywhere, and what would turn the text around is shown as an escape."""
    event_id = trail.sync.log_change(
        SCRIPT,
        {SCRIPT: (SCRIPT, "\u202egnp.exe")},
        user_id=SCRIPT,
        request_id=SCRIPT,
        user_agent=SCRIPT,
        metadata={SCRIPT: SCRIPT},
    )
    [event] = trail.sync.get_events(event_id=event_id)
    for path in (TRAIL, f"{TRAIL}{event.sequence_number}/change/", f"{TRAIL}?user_id={SCRIPT}&before={SCRIPT}"):
        text = auditor.get(path).content.decode()
        assert SCRIPT not in text
        assert "&lt;script&gt;" in text
        assert "\u202e" not in text


def test_the_history_of_an_object_has_who_did_what(trail: AuditTrail, auditor: Any) -> None:
    """The history page of an audited object has the events about it, for those who may see the trail."""
    patient = models.Patient.objects.create(name="Ann")
    trail.sync.log_data_access(f"django_site.patient/{patient.pk}", "read", user_id="mallory")
    history = f"/admin/django_site/patient/{patient.pk}/history/"
    text = auditor.get(history).content.decode()
    assert "mallory" in text
    assert f"{TRAIL}?target=django_site.patient%2F{patient.pk}" in text
    doctor = client_of("doctor", "view_patient")
    assert "mallory" not in doctor.get(history).content.decode()
    assert auditor.get("/admin/django_site/patient/0/history/").status_code == 302
    auth.User.objects.filter(username="doctor").delete()


def test_a_site_of_ones_own_needs_no_page_of_the_trail(trail: AuditTrail, auditor: Any) -> None:
    """The history is shown in an admin site that has no page of the trail, without links to one."""
    patient = models.Patient.objects.create(name="Ann")
    site = admin.AdminSite(name="wards")
    site.register(models.Patient, type("PatientAdmin", (ours.AuditHistory, admin.ModelAdmin), {}))
    urls = ModuleType("urls")
    vars(urls).update(urlpatterns=[urlconf.path("wards/", site.urls), urlconf.path("admin/", admin.site.urls)])
    with testing.override_settings(ROOT_URLCONF=urls):
        text = auditor.get(f"/wards/django_site/patient/{patient.pk}/history/").content.decode()
    assert f"django_site.patient/{patient.pk}" in text
    assert "fapilog/event" not in text


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_times_at_the_ends_of_the_calendar_are_shown_and_asked_for(zone: str, trail: AuditTrail, auditor: Any) -> None:
    """Neither an event nor a question with such a time breaks the page."""
    ids = [
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "x", occurred=each)
        for each in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    ]
    with testing.override_settings(TIME_ZONE=zone):
        found = numbers(auditor, start_time="0001-01-01 00:00", end_time="9999-12-31 23:59:59")
        assert len(found) >= len(ids)
        for each in found:
            assert auditor.get(f"{TRAIL}{each}/change/").status_code == 200


def test_a_change_in_the_admin_is_recorded(trail: AuditTrail) -> None:
    """What the staff change in the admin has the user, the request and the old and the new values."""
    patient = models.Patient.objects.create(name="Ann")
    root = client_of("root", is_superuser=True)
    root.post(f"/admin/django_site/patient/{patient.pk}/change/", {"name": "Anna", "visits": "0", "born": ""})
    event = trail.sync.get_events()[0]
    assert (event.user_id, event.changes) == ("root", {"name": ["Ann", "Anna"]})
    assert event.request_id is not None
    auth.User.objects.filter(username="root").delete()


def test_a_trail_that_can_not_be_read_is_said(tmp_path: Path, auditor: Any) -> None:
    """The page says so, and is there."""
    (tmp_path / "audit").write_text("a file, and no directory")
    with django_site.audit_settings(tmp_path / "audit", dispatcher=NoopAlertDispatcher()):
        for path in (TRAIL, f"{TRAIL}7/change/"):
            assert "The trail can&#x27;t be read" in auditor.get(path).content.decode()


def test_other_commands_of_django_pass_by_the_model(tmp_path: Path) -> None:
    """The model has no table, which no command of Django misses, and needs no migration."""
    management.call_command("dumpdata", "fapilog", verbosity=0, output=str(tmp_path / "dump"))
    assert (tmp_path / "dump").read_text().strip() == "[]"
    management.call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    management.call_command("check", fail_level="WARNING", verbosity=0)
