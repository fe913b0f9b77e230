"""What frameworks give, as it is stored."""

from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType
from tests.doubles import django_site

FORM = [("role", "user"), ("role", "admin")]
ROLES = {"role": ["user", "admin"]}


def kept(value: object) -> Any:
    """Return what is stored for *value*."""
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", metadata={"value": value}).metadata["value"]


def test_django() -> None:
    """Of a form that was posted to Django, all values of each name are stored."""
    http = pytest.importorskip("django.http")
    django_site.set_up()
    assert kept(http.QueryDict("role=user&role=admin&x=1")) == {**ROLES, "x": ["1"]}
    assert kept(http.request.HttpHeaders({"HTTP_VIA": "a"})) == {"Via": "a"}


def test_werkzeug() -> None:
    """Of a form and headers that were posted to Werkzeug, all values of each name are stored."""
    given = pytest.importorskip("werkzeug.datastructures")
    form = given.ImmutableMultiDict(FORM)
    assert kept(form) == ROLES
    assert kept(given.CombinedMultiDict([given.MultiDict(FORM[:1]), given.MultiDict(FORM[1:])])) == ROLES
    assert kept(given.Headers(FORM)) == ROLES
    assert kept(given.EnvironHeaders({"HTTP_VIA": "a"})) == {"Via": ["a"]}


def test_starlette() -> None:
    """Of a form, a query and headers that Starlette has read, all values of each name are stored."""
    given = pytest.importorskip("starlette.datastructures")
    assert kept(given.FormData(FORM)) == ROLES
    assert kept(given.QueryParams(FORM)) == ROLES
    assert kept(given.Headers(raw=[(b"role", b"user"), (b"role", b"admin")])) == ROLES


def test_pydantic() -> None:
    """A pydantic model is an object of its fields, with what was given beyond them, and without what it never dumps."""
    pydantic = pytest.importorskip("pydantic")
    fields = {"name": (str, ...), "password": (pydantic.SecretStr, ...), "hidden": (str, pydantic.Field(exclude=True))}
    kind = pydantic.create_model("User", __config__=pydantic.ConfigDict(extra="allow"), **fields)
    user = kind(name="a", password="s", hidden="h", form=kind(name="b", password="s", hidden="h"))
    shown = {"name": "a", "password": "SecretStr('**********')"}
    assert kept(user) == {**shown, "form": {**shown, "name": "b"}}


def test_attrs() -> None:
    """An attrs class is an object of its fields."""
    attrs = pytest.importorskip("attrs")
    ticket = attrs.make_class("Ticket", ["number", "row"])(1, {2})
    assert kept(ticket) == {"number": 1, "row": [2]}
