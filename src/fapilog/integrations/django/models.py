"""The events as the admin knows them: a name and a permission, without a table."""

from __future__ import annotations

from typing import Any

from django.db import models

__all__ = ["Event", "NoRows"]


class NoRows(models.Manager):
    """Has no objects, and asks no database: commands such as ``dumpdata`` go through all models."""

    def get_queryset(self) -> Any:
        """Return an empty query."""
        return super().get_queryset().none()


class Event(models.Model):
    """
    An event of the trail, which is kept in the trail and in no table.

    Users who may see the trail in the admin have the permission ``fapilog.view_event``.
    """

    objects: Any = NoRows()

    class Meta:
        """No permission to add, change or delete an event exists."""

        managed = False
        default_permissions = ("view",)
        base_manager_name = "objects"
        verbose_name = "event"
        verbose_name_plural = "audit trail"
