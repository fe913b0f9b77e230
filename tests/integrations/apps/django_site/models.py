"""The models of the site."""

from django.db import models


class Ward(models.Model):
    """A ward."""

    name = models.CharField(max_length=80)


class Patient(models.Model):
    """A patient."""

    name = models.CharField(max_length=80)
    born = models.DateField(null=True)
    notes = models.TextField(blank=True)
    access_token = models.CharField(max_length=80, blank=True)
    visits = models.IntegerField(default=0)
    findings = models.JSONField(default=dict)
    ward = models.ForeignKey(Ward, models.SET_NULL, null=True)
    watched_by = models.ManyToManyField("auth.User")

    def __str__(self) -> str:
        """Return the name."""
        return f"{self.name}"
