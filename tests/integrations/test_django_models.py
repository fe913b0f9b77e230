"""What becomes of the objects of Django models, as it is recorded."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditTrail, NoopAlertDispatcher
from fapilog.context import audit_context
from tests.doubles import django_site
from tests.doubles.alarms import TimeUp, alarming

pytest.importorskip("django")
django_site.set_up()
auth: Any = importlib.import_module("django.contrib.auth.models")
db: Any = importlib.import_module("django.db")
transaction: Any = importlib.import_module("django.db.transaction")
expressions: Any = importlib.import_module("django.db.models")
models: Any = importlib.import_module("tests.integrations.apps.django_site.models")
ours: Any = importlib.import_module("fapilog.integrations.django")
testing: Any = importlib.import_module("django.test")


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[AuditTrail]:
    """Yield the trail of the site, in a directory of its own."""
    with django_site.audit_settings(tmp_path / "audit", dispatcher=NoopAlertDispatcher()) as trail:
        yield trail


@pytest.fixture
def patient(trail: AuditTrail) -> Any:
    """Return a patient, of whom the first event of the trail tells."""
    return models.Patient.objects.create(name="Ann")


def later(trail: AuditTrail) -> list[AuditEvent]:
    """Return the events after the first, the oldest first."""
    return trail.sync.get_events(after=1)[::-1]


def changes(trail: AuditTrail) -> list[dict[str, Any]]:
    """Return what the events after the first say of changes."""
    return [dict(event.changes) for event in later(trail)]


def test_an_object_that_is_created_changed_and_deleted_is_recorded(trail: AuditTrail) -> None:
    """Each event has its type, the object as the target, and of each field the old and the new value."""
    ward = models.Ward.objects.create(name="North")
    patient = models.Patient.objects.create(name="Ann", notes="not recorded")
    patient.name, patient.born, patient.ward = "Anna", date(1990, 2, 3), ward
    patient.save()
    key = patient.pk
    patient.delete()
    created, changed, deleted = trail.sync.get_events()[::-1]
    assert [event.event_type.value for event in (created, changed, deleted)] == [
        "data_modification",
        "data_modification",
        "data_deletion",
    ]
    assert [event.operation for event in (created, changed, deleted)] == ["create", "update", "delete"]
    assert {str(event.target) for event in (created, changed, deleted)} == {f"django_site.patient/{key}"}
    assert {event.contains_phi for event in (created, changed, deleted)} == {True}
    assert created.changes["name"] == [None, "Ann"]
    assert created.changes["visits"] == [None, 0]
    assert "notes" not in created.changes
    assert changed.changes == {"name": ["Ann", "Anna"], "born": [None, "1990-02-03"], "ward": [None, ward.pk]}
    assert deleted.changes["name"] == ["Anna", None]
    assert created.message == f"Created django_site.patient/{key}"


def test_a_deleted_object_has_the_values_that_it_had(trail: AuditTrail, patient: Any) -> None:
    """A field that was NULL does not differ, and is not in the event."""
    patient.delete()
    [deleted] = changes(trail)
    assert [name for name, (old, _) in deleted.items() if old is None] == []
    assert "visits" in deleted


def test_what_is_rolled_back_is_not_recorded(trail: AuditTrail, patient: Any) -> None:
    """Events come when the outermost transaction commits, and none of a transaction that is rolled back."""
    with rolled_back():
        save_by(patient, visits=1)
    with transaction.atomic():
        save_by(patient, visits=2)
        with rolled_back():
            save_by(patient, visits=3)
        assert changes(trail) == []
    assert changes(trail) == [{"visits": [0, 2]}]


def test_an_event_has_the_context_of_its_change(trail: AuditTrail, patient: Any) -> None:
    """The values that held when the object was saved are recorded, and not those that hold at the commit."""
    with audit_context(user_id="outer"), transaction.atomic(), audit_context(user_id="inner", reason="ticket 7"):
        patient.delete()
    [event] = later(trail)
    assert (event.user_id, event.reason) == ("inner", "ticket 7")


def test_the_user_is_the_one_who_made_the_change(trail: AuditTrail, patient: Any) -> None:
    """Who signs in or out between a change and the commit is not recorded as who made it."""
    users = ["alice", None, "mallory"]
    with audit_context(user_id=lambda: users[0]), transaction.atomic():
        save_by(patient, visits=1)
        users.pop(0)
        save_by(patient, visits=2)
        users.pop(0)
    assert [event.user_id for event in later(trail)] == ["alice", None]


def test_an_object_that_is_saved_again_while_it_is_saved_is_recorded(trail: AuditTrail, patient: Any) -> None:
    """Where a receiver of the site saves the object once more, each event has the old values of its own save."""
    badge = models.Badge.objects.create(number=uuid.uuid4(), pin="1")
    save_by(badge, prints=0, pin="2")
    again, created, once_more, changed = later(trail)
    assert (again.operation, again.changes) == ("update", {"prints": [0, 1]})
    assert (created.operation, created.changes["prints"]) == ("create", [None, 1])
    assert once_more.changes == {"prints": [0, 1]}
    assert changed.changes == {"pin": ["********", "********"]}


@contextmanager
def rolled_back() -> Iterator[None]:
    """Roll back what is done in the block."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.mark.parametrize(
    "save",
    [
        lambda key: models.Patient(pk=key, name="Bea").save(),
        lambda key: models.Patient.objects.only("visits").get(pk=key).__class__(pk=key, name="Bea").save(),
        lambda key: save_by(models.Patient.objects.defer("name").get(pk=key), name="Bea"),
        lambda key: models.Patient.objects.update_or_create(pk=key, defaults={"name": "Bea"}),
        lambda key: save_by(models.Inpatient.objects.get(pk=key), name="Bea"),
    ],
    ids=["by hand", "by hand, loaded", "deferred", "update_or_create", "proxy"],
)
def test_the_old_value_is_the_one_that_was_stored(save: Any, trail: AuditTrail, patient: Any) -> None:
    """However the object came to be, the old value is the database's."""
    save(patient.pk)
    [event] = later(trail)
    assert event.changes == {"name": ["Ann", "Bea"]}
    assert str(event.target) == f"django_site.patient/{patient.pk}"


def save_by(instance: Any, **values: Any) -> None:
    """Save an object with these values."""
    for name, value in values.items():
        setattr(instance, name, value)
    instance.save()


def test_what_another_process_wrote_is_the_old_value(trail: AuditTrail, patient: Any) -> None:
    """Saving an object that was loaded before another change undoes that change, and the event says so."""
    models.Patient.objects.filter(pk=patient.pk).update(name="Bea")
    save_by(patient, visits=1)
    assert changes(trail) == [{"name": ["Bea", "Ann"], "visits": [0, 1]}]


def test_only_what_changes_is_recorded(trail: AuditTrail, patient: Any) -> None:
    """A save that changes nothing, or nothing that is recorded, has no event, whatever the type of a value."""
    patient.save()
    save_by(patient, notes="more", visits="0", born=None)
    save_by(patient, born="1990-02-03")
    save_by(patient, born=date(1990, 2, 3))
    patient.visits, patient.name = 7, "not saved"
    patient.save(update_fields=["visits"])
    assert changes(trail) == [{"born": [None, "1990-02-03"]}, {"visits": [0, 7]}]


def test_what_the_database_computes_is_recorded_as_it_came_out(trail: AuditTrail, patient: Any) -> None:
    """Of an expression the value is recorded; and of a list or dict the one that was saved, though it changes later."""
    save_by(patient, visits=expressions.F("visits") + 2)
    patient.refresh_from_db()
    with transaction.atomic():
        patient.findings["pulse"] = [60]
        patient.save()
        patient.findings["pulse"].append(61)
    assert changes(trail) == [{"visits": [0, 2]}, {"findings": [{}, {"pulse": [60]}]}]


def test_json_is_compared_as_it_comes_back(trail: AuditTrail, patient: Any) -> None:
    """A tuple, and a key that is a number, are no change for an object that is saved again as it is."""
    patient.findings = {"pressure": (120, 80), 7: "ward"}
    patient.save()
    patient.save()
    assert changes(trail) == [{"findings": [{}, {"pressure": [120, 80], "7": "ward"}]}]


def test_secrets_are_masked(trail: AuditTrail) -> None:
    """Of a token, a password and a field of your choice the change is recorded, and no value."""
    badge = models.Badge.objects.create(number=uuid.uuid4(), pin="1234")
    patient = models.Patient.objects.create(name="Ann")
    save_by(patient, access_token="s3cret")
    user = auth.User.objects.create_user("carol", password="correct horse")
    user.delete()
    badge.delete()
    _, created, _, changed, signed_up, *_ = trail.sync.get_events()[::-1]
    assert created.changes["pin"] == [None, "********"]
    assert changed.changes == {"access_token": ["********", "********"]}
    assert signed_up.changes["password"] == [None, "********"]
    assert signed_up.changes["username"] == [None, "carol"]


def test_relations_are_recorded(trail: AuditTrail, patient: Any) -> None:
    """What is added to a many-to-many relation, removed from it and cleared is recorded, from either side."""
    with transaction.atomic():  # the events of the users are not asked for
        alice, bob = (auth.User(username=name) for name in ("dora", "emil"))
        auth.User.objects.bulk_create([alice, bob])
    patient.watched_by.add(alice, bob)
    patient.watched_by.add(alice)
    patient.watched_by.remove(alice)
    patient.watched_by.remove(alice)
    patient.watched_by.clear()
    bob.patient_set.add(patient)
    bob.patient_set.clear()
    keys = sorted([alice.pk, bob.pk])
    assert changes(trail) == [
        {"watched_by": [[], keys]},
        {"watched_by": [[alice.pk], []]},
        {"watched_by": [[bob.pk], []]},
        {"watched_by": [[], [bob.pk]]},
        {"watched_by": [[bob.pk], []]},
    ]
    assert {str(event.target) for event in later(trail)} == {f"django_site.patient/{patient.pk}"}


def test_both_sides_of_a_symmetrical_relation_are_recorded(trail: AuditTrail, patient: Any) -> None:
    """An object that becomes, or ceases to be, related by another one's relation has an event of its own."""
    other = models.Patient.objects.create(name="Bea")
    before = len(later(trail))
    patient.relatives.add(other)
    other.relatives.add(other)
    patient.relatives.clear()
    found = [(event.target.id, event.changes["relatives"]) for event in later(trail)[before:] if event.target]
    ann, bea = patient.pk, other.pk
    assert found == [
        (str(ann), [[], [bea]]),
        (str(bea), [[], [ann]]),
        (str(bea), [[], [bea]]),
        (str(ann), [[bea], []]),
        (str(bea), [[ann], []]),
    ]


def test_each_object_of_a_query_that_deletes_is_recorded(trail: AuditTrail, patient: Any) -> None:
    """A query that deletes, a cascade and the parent of a subclass are recorded object by object."""
    models.Badge.objects.create(number=uuid.uuid4(), pin="1", owner=patient)
    newborn = models.Newborn.objects.create(name="Cleo", weight=3100)
    models.Patient.objects.filter(pk__in=[patient.pk, newborn.pk]).delete()
    deleted = [str(event.target).partition("/")[0] for event in later(trail) if event.operation == "delete"]
    assert sorted(deleted) == ["django_site.badge", "django_site.newborn", *["django_site.patient"] * 2]


def test_bulk_operations_are_not_seen(trail: AuditTrail, patient: Any) -> None:
    """As the docs say, Django tells nobody of these."""
    models.Patient.objects.update(name="Bea")
    models.Patient.objects.bulk_create([models.Patient(name="Cleo")])
    assert changes(trail) == []


def test_a_subclass_is_recorded_whole(trail: AuditTrail) -> None:
    """Of a model that inherits its table from an audited one, the fields of both are recorded once."""
    newborn = models.Newborn.objects.create(name="Cleo", weight=3100)
    save_by(newborn, name="Clea", weight=3200)
    created, changed = trail.sync.get_events()[::-1]
    assert created.changes["weight"] == [None, 3100]
    assert changed.changes == {"name": ["Cleo", "Clea"], "weight": [3100, 3200]}


def test_a_trail_that_can_not_be_stored_stops_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The change is committed, and the log says that it is not recorded."""
    (tmp_path / "audit").write_text("a file, and no directory")
    with django_site.audit_settings(tmp_path / "audit", dispatcher=NoopAlertDispatcher()):
        patient = models.Patient.objects.create(name="Ann")
    assert models.Patient.objects.filter(pk=patient.pk).exists()
    assert "an event of Django is not recorded: AuditStorageError" in caplog.text
    assert "Ann" not in caplog.text


def test_a_time_limit_reaches_the_code_that_saves(trail: AuditTrail, patient: Any) -> None:
    """The exception of a signal handler that arrives while the old values are read is raised, and nothing is saved."""
    with alarming() as expire:

        def slow(execute: Any, sql: str, *more: Any) -> Any:
            if sql.startswith("SELECT"):
                expire()
            return execute(sql, *more)

        patient.name = "Bob"
        with db.connection.execute_wrapper(slow), pytest.raises(TimeUp):
            patient.save()
    patient.refresh_from_db()
    assert patient.name == "Ann"
    assert not later(trail)


def test_the_changes_of_a_request_in_one_transaction_have_its_context(trail: AuditTrail) -> None:
    """With ATOMIC_REQUESTS, the changes of a view that answers are recorded with its request."""
    patient = models.Patient.objects.create(name="Ann")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(db.connection.settings_dict, "ATOMIC_REQUESTS", 1)
        response = testing.Client().get(f"/patients/{patient.pk}/visit", headers={"x-request-id": "r-1"})
    assert response.content == b"1"
    [event] = later(trail)
    assert (event.request_id, event.changes) == ("r-1", {"visits": [0, 1]})


def test_a_field_that_is_not_there_is_refused() -> None:
    """A mistyped field is an error at once, which names the fields that there are."""
    with pytest.raises(ValueError, match=r"django_site.Ward: expected a field, one of .*name; got 'nmae'$"):
        ours.audited(models.Ward, exclude=["nmae"])


def test_one_field_is_no_list_of_letters() -> None:
    """A text is one name, also where a list is expected."""
    with pytest.raises(ValueError, match=r"got 'nmae'$"):
        ours.audited(models.Ward, mask="nmae")
    with pytest.raises(TypeError, match=r"^exclude: expected the name of a field, or a list; got"):
        ours.audited(models.Ward, exclude=5)


def test_a_field_that_fits_no_change_is_refused() -> None:
    """With an id, or an unknown level, no change would be recorded."""
    for given in ({"event_id": "e"}, {"log_level": "loud"}, {"contains_ph": True}):
        with pytest.raises((TypeError, ValueError), match=f"^{next(iter(given))}: "):
            ours.audited(models.Ward, **given)


@pytest.mark.parametrize("given", ["django_site.Ward", object, 5])
def test_what_is_no_model_is_refused(given: Any) -> None:
    """A name, or a class that is no model, is an error in words."""
    with pytest.raises(TypeError, match="audited: expected the class of a model; got"):
        ours.audited(given)


@pytest.mark.parametrize("option", ["mask", "exclude"])
def test_a_key_that_is_a_secret_is_no_target(option: str, trail: AuditTrail) -> None:
    """A primary key that is masked or excluded is masked in the target, also that of a subclass."""
    meta = type("Meta", (), {"app_label": "django_site", "managed": False})
    given = {"__module__": __name__, "Meta": meta, "key": expressions.CharField(primary_key=True, max_length=40)}
    with testing.utils.isolate_apps("tests.integrations.apps.django_site"):
        token = ours.audited(type("Ticket", (expressions.Model,), given), **{option: ["key"]})
        longer = type("Day", (token,), {"__module__": __name__, "Meta": meta})
        assert str(ours.target_of(token(key="s3cret"))) == "django_site.ticket/********"
        assert str(ours.target_of(longer(ticket_ptr_id="s3cret", key="s3cret"))) == "django_site.day/********"


def test_the_parts_of_a_composite_key_are_in_the_target_and_the_secret_ones_masked(trail: AuditTrail) -> None:
    """A key of several fields is in the target part by part, and one that is masked is masked there too."""
    meta = type("Meta", (), {"app_label": "django_site", "managed": False})
    given = {"__module__": __name__, "Meta": meta, "pk": expressions.CompositePrimaryKey("ward", "code", "api_key")}
    given |= {name: expressions.CharField(max_length=40) for name in ("ward", "code", "api_key")}
    with testing.utils.isolate_apps("tests.integrations.apps.django_site"):
        door = ours.audited(type("Door", (expressions.Model,), given), mask=["code"])
        found = ours.target_of(door(ward="north", code="1234", api_key="s3cret"))
        assert str(found) == "django_site.door/north,********,********"


def test_the_target_of_no_saved_object_is_refused_with_words() -> None:
    """An event about an object without a key would be found with no object; so is one about a class."""
    with pytest.raises(
        ValueError, match=r"^instance: expected a saved django_site\.Patient; got one without a primary k"
    ):
        ours.target_of(models.Patient(name="Ann"))
    for wrong, kind in ((models.Patient, "the class Patient"), ("patient/1", "a str")):
        with pytest.raises(TypeError, match=rf"^instance: expected an object of a model; got {kind}$"):
            ours.target_of(wrong)


def test_events_of_your_own_have_the_same_target(trail: AuditTrail, patient: Any) -> None:
    """What is logged about an object by hand is found together with its changes."""
    trail.sync.log_data_access(ours.target_of(patient), "read")
    found = trail.sync.get_events(target=ours.target_of(patient))
    assert [event.operation for event in found] == ["read", "create"]
