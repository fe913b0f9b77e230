"""The methods of a trail for everyday events: short forms of `log_event`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from ..record.errordetails import BEGINNING, in_short
from ..record.events import data_event_type
from ..record.intake import CommonFields, EventFields
from ..record.keywords import keywords, names_in
from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ..record.options import flag
from ..record.parties import Target
from ..record.privacy import without_frames
from ..record.values import given_text

__all__ = ["EverydayEvents"]


class EverydayEvents:
    """The recording methods of `AuditTrail` that call `log_event`."""

    if TYPE_CHECKING:  # the trail's

        async def log_event(
            self, /, event_type: AuditEventType | str, message: str, **fields: Unpack[EventFields]
        ) -> str:
            """Store an event; see `AuditTrail.log_event`."""
            ...

    @without_frames
    async def log_error(
        self, /, error: BaseException, *, operation: str | None = None, **fields: Unpack[CommonFields]
    ) -> str:
        """
        Record an exception with its type, text and traceback, at level error.

        Args:
            error: The exception.
            operation: The operation that failed.
            **fields: As for `log_event`.

        Returns and raises as `log_event`.
        """
        return await self.log_event(
            AuditEventType.ERROR_OCCURRED,
            f"{BEGINNING}{in_short(given_text(error))}",
            **keywords(fields, log_level=AuditLogLevel.ERROR, error=error, operation=operation),
        )

    @without_frames
    async def log_security_event(
        self, /, event_type: AuditEventType | str, message: str, **fields: Unpack[EventFields]
    ) -> str:
        """
        Record a security event, at level security.

        Args:
            event_type: The kind of event.
            message: The event in words.
            **fields: As for `log_event`.

        Returns and raises as `log_event`.
        """
        return await self.log_event(event_type, message, **keywords(fields, log_level=AuditLogLevel.SECURITY))

    @without_frames
    async def log_data_access(self, /, resource: Target | str, operation: str, **fields: Unpack[CommonFields]) -> str:
        """
        Record that data were read, changed, deleted or exported.

        Args:
            resource: The data, "patient/42": the target. It is in the metadata too, where the earlier fapilog had it.
            operation: "read", "write", "update", "delete" or "export" decide on the event type; any other operation is
                an access.
            **fields: As for `log_event`.

        Returns and raises as `log_event`.
        """
        name = given_text(resource)
        given = keywords(fields, operation=operation, target=resource)
        if "target" in given:  # which None is not
            given.setdefault("resource", name)
        return await self.log_event(
            data_event_type(operation), f"Data {given_text(operation)} on resource: {name}", **given
        )

    @without_frames
    async def log_authentication(
        self, /, *, success: bool, method: str | None = None, **fields: Unpack[CommonFields]
    ) -> str:
        """
        Record a sign-in, or a failed one.

        A failure is a security event: AUTHENTICATION_FAILED at level security. A success is AUTHENTICATION_SUCCEEDED.

        Args:
            success: Whether it succeeded.
            method: How: "password", "oidc", "api_key"; the *operation* of the event.
            **fields: As for `log_event`; *user_id* is the user who signed in, *reason* the reason of a failure.

        Returns and raises as `log_event`.
        """
        succeeded = flag("success", success)
        return await self.log_event(
            AuditEventType.AUTHENTICATION_SUCCEEDED if succeeded else AuditEventType.AUTHENTICATION_FAILED,
            "Authentication succeeded" if succeeded else "Authentication failed",
            **keywords(
                fields,
                log_level=AuditLogLevel.INFO if succeeded else AuditLogLevel.SECURITY,
                outcome=AuditOutcome.SUCCESS if succeeded else AuditOutcome.FAILURE,
                operation=method,
            ),
        )

    @without_frames
    async def log_change(
        self,
        /,
        target: Target | str,
        changes: Mapping[str, tuple[Any, Any] | list[Any]],
        **fields: Unpack[CommonFields],
    ) -> str:
        """
        Record that something was changed: from which values to which.

        Args:
            target: The object that was changed, "user/7".
            changes: The old value and the new one by field: ``{"role": ("user", "admin")}``.
            **fields: As for `log_event`.

        Returns and raises as `log_event`.
        """
        return await self.log_event(
            AuditEventType.DATA_MODIFICATION,
            ": ".join(filter(None, [f"Changed {given_text(target)}", ", ".join(names_in(changes))])),
            **keywords(fields, target=target, changes=changes, outcome=AuditOutcome.SUCCESS),
        )

    @without_frames
    async def log_admin_action(
        self, /, action: str, *, target: Target | str | None = None, **fields: Unpack[CommonFields]
    ) -> str:
        """
        Record an action that needed the rights of an administrator.

        Args:
            action: The action, "restart worker"; the *operation* of the event.
            target: The object of the action.
            **fields: As for `log_event`.

        Returns and raises as `log_event`.
        """
        name = given_text(action)
        return await self.log_event(
            AuditEventType.ADMIN_ACTION,
            f"Admin action: {name}",
            **keywords(fields, operation=name, target=target, outcome=AuditOutcome.SUCCESS),
        )
