"""A page of the trail: its filter, and the events as texts that a page can show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, time
from enum import Enum
from typing import Any, Final, cast

import msgspec
from django import forms
from django.forms.utils import from_current_timezone
from django.utils import timezone

from ...record.events import AuditEvent
from ...record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ...record.parties import Actor, Target
from ...storage.protocol import Conditions

__all__ = ["PAGE", "Questions", "changes_of", "rows_of", "shown"]

PAGE: Final = 50


class _Until(forms.DateTimeField):
    """A time, or a day; of that its last moment, as for ``fapilog show --until``."""

    def to_python(self, value: Any) -> Any:
        with suppress(forms.ValidationError):
            day = forms.DateField().to_python(value)
            if day is not None:
                return from_current_timezone(datetime.combine(day, time.max))
        return super().to_python(value)


class Questions(forms.Form):
    """The filter of the page: every field is one condition of `AuditTrail.get_events`."""

    user_id = forms.CharField(required=False, label="User", max_length=256)
    target = forms.CharField(required=False, label="Target", max_length=256, help_text="TYPE/ID")
    event_type = forms.CharField(required=False, label="Type", max_length=128)
    min_level = forms.ChoiceField(
        required=False,
        label="Level",
        choices=[("", "any"), *((each.value, f"{each.value} and higher") for each in AuditLogLevel)],
    )
    outcome = forms.ChoiceField(
        required=False, label="Outcome", choices=[("", "any"), *((each.value, each.value) for each in AuditOutcome)]
    )
    start_time = forms.DateTimeField(required=False, label="From", help_text="2026-03-01 or 2026-03-01 12:00")
    end_time = _Until(required=False, label="To")
    client_ip = forms.CharField(required=False, label="Address", max_length=64)
    request_id = forms.CharField(required=False, label="Request", max_length=256)
    message = forms.CharField(required=False, label="Words in the message", max_length=256)
    before = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1, widget=forms.HiddenInput)

    def clean_event_type(self) -> str:
        """Return the name of a type, one of the list or one of the site's own, which has a dot."""
        given: str = self.cleaned_data["event_type"]
        if given:
            try:
                AuditEventType(given)
            except ValueError:
                known = ", ".join(each.value for each in AuditEventType)
                raise forms.ValidationError(f"Expected one of {known}, or a type of your own with a dot.") from None
        return given

    def conditions(self) -> Conditions:
        """Return the conditions that were given; of a form that is valid."""
        given = {name: value for name, value in self.cleaned_data.items() if value not in (None, "")}
        for name in ("start_time", "end_time"):
            # Without USE_TZ, a form has naive times.
            if name in given and timezone.is_naive(given[name]):
                given[name] = timezone.make_aware(given[name])
        return cast("Conditions", given)


def shown(value: object) -> str:
    """
    Return a value as text that can't change the page around it; the template escapes it for HTML.

    Characters that are not printable, such as marks that turn the direction of text around, are shown as escapes.
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        with suppress(OverflowError):  # at the ends of the calendar
            value = timezone.localtime(value)
        return f"{value:%Y-%m-%d %H:%M:%S %Z}"
    if isinstance(value, Enum):
        value = value.value
    elif isinstance(value, Actor | Target):
        value = ", ".join(f"{name} {part}" for name, part in msgspec.to_builtins(value).items())
    elif not isinstance(value, str | int):
        value = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in str(value))


def changes_of(event: AuditEvent) -> list[tuple[str, str, str]]:
    """Return the name, the old value and the new value of every field that the event says to have changed."""
    found: list[tuple[str, str, str]] = []
    for name, values in event.changes.items():
        # It may have been recorded by hand, with anything.
        old, new = values if isinstance(values, list) and len(values) == 2 else (None, values)  # noqa: PLR2004
        found.append((shown(name), shown(old), shown(new)))
    return found


def rows_of(event: AuditEvent) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of every member that the event has, except for its changes."""
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name not in {"changes", "line", "metadata", "error"} and value not in (None, (), ""):
            yield name.replace("_", " "), shown(value)
    if event.error is not None:
        yield from ((f"error {name}", shown(value)) for name, value in msgspec.to_builtins(event.error).items())
    parts: Mapping[str, Any] = event.metadata
    yield from ((shown(name), shown(value)) for name, value in parts.items())
