"""
The pages of the admin: the trail, one event, and the history of an object.

    class PatientAdmin(AuditHistory, admin.ModelAdmin): ...

They show the trail to users with the permission ``fapilog.view_event``, and nothing can be changed there. Every look at
the trail is an event of the trail too.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.template.response import TemplateResponse

from ...record.errors import AuditStorageError
from ...record.events import AuditEvent
from ...record.kinds import AuditEventType
from ...storage.protocol import Conditions
from ._changes import target_of
from ._page import PAGE, Questions, changes_of, rows_of, shown
from ._settings import id_of, recording, trail
from .models import Event

__all__ = ["AuditHistory", "EventAdmin"]

_PERMISSION = "fapilog.view_event"


@admin.register(Event)
class EventAdmin(admin.ModelAdmin):
    """The page of the trail: the events, the newest first, with a filter; and a page per event."""

    def has_add_permission(self, request: Any) -> bool:  # noqa: ARG002  the signatures are Django's
        """Return False: no event can be added here."""
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002
        """Return False: no event can be changed."""
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002
        """Return False: no event can be deleted."""
        return False

    def changelist_view(self, request: Any, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the events that the filter asks for, a page at a time."""
        self._check(request)
        # Without a question, the newest events.
        form = Questions(request.GET)
        events, problem = _found(form.conditions(), PAGE + 1) if form.is_valid() else ([], "")
        page = events[:PAGE]
        older = None
        if len(events) > PAGE:
            query = request.GET.copy()
            query["before"] = str(page[-1].sequence_number)
            older = query.urlencode()
        return self._answer(
            request,
            "fapilog/events.html",
            {
                "title": "Audit trail",
                "form": form,
                "events": [_line(event) for event in page],
                "older": older,
                "problem": problem,
                **(extra_context or {}),
            },
        )

    def change_view(
        self, request: Any, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> Any:
        """Show one event, by its number in the trail."""
        del form_url
        self._check(request)
        number = int(object_id) if object_id.isdecimal() and len(object_id) < 19 else 0  # noqa: PLR2004  of 64 bits
        conditions: Conditions = {"after": number - 1, "before": number + 1}
        events, problem = _found(conditions, 1) if number else ([], "")
        if not events and not problem:
            raise Http404
        event = events[0] if events else None
        return self._answer(
            request,
            "fapilog/event.html",
            {
                "title": f"Event {number}",
                "rows": [] if event is None else list(rows_of(event)),
                "changes": [] if event is None else changes_of(event),
                "problem": problem,
                **(extra_context or {}),
            },
        )

    def history_view(self, request: Any, object_id: str, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the event: it has no history."""
        return self.change_view(request, object_id, extra_context=extra_context)

    def _check(self, request: Any) -> None:
        if not self.has_view_permission(request) or request.method not in {"GET", "HEAD"}:
            raise PermissionDenied
        _note(request)

    def _answer(self, request: Any, template: str, context: dict[str, Any]) -> Any:
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request, template, {**self.admin_site.each_context(request), "opts": self.opts, **context}
        )


class AuditHistory:
    """
    A base of a `ModelAdmin`: the history of an object has its events of the trail, wherever it was changed.

        class PatientAdmin(AuditHistory, admin.ModelAdmin): ...

    Only users with the permission ``fapilog.view_event`` see the events. The model should be `audited`.
    """

    object_history_template = "fapilog/object_history.html"

    def history_view(self, request: Any, object_id: str, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the history of an object, with the newest events about it."""
        admin_of_model: Any = super()
        response = admin_of_model.history_view(request, object_id, extra_context)
        # Django has checked that this user may see the object; if not, there is none in the response.
        instance = (getattr(response, "context_data", None) or {}).get("object")
        if instance is not None and request.user.has_perm(_PERMISSION):
            _note(request)
            target = target_of(instance)
            events, problem = _found({"target": target}, PAGE)
            response.context_data |= {
                "may_see_trail": True,
                "events": [_line(event) for event in events],
                "problem": problem,
                "target": str(target),
            }
        return response


def _note(request: Any) -> None:
    """Record a look at the trail: PCI DSS 10.2.1.3, "all access to audit logs"."""
    with recording():
        trail.sync.log_event(
            AuditEventType.AUDIT_LOG_ACCESS,
            "Audit trail read in the admin",
            operation="read",
            user_id=id_of(request.user),
            metadata={"page": request.get_full_path()},
        )


def _found(conditions: Conditions, limit: int) -> tuple[list[AuditEvent], str]:
    try:
        return trail.sync.get_events(limit=limit, **conditions), ""
    except AuditStorageError as error:
        return [], f"The trail can't be read: {shown(str(error))}"
    except (TypeError, ValueError) as error:
        return [], shown(str(error))


def _line(event: AuditEvent) -> dict[str, Any]:
    """Return the texts of an event for a line of a table."""
    texts = {
        name: shown(getattr(event, name))
        for name in ("timestamp", "log_level", "event_type", "outcome", "user_id", "client_ip", "request_id", "message")
    }
    target = "" if event.target is None else shown(str(event.target))
    return {**texts, "number": event.sequence_number, "target": target, "changes": changes_of(event)}
