"""The models of the site."""

from django.contrib.auth.models import User
from django.db import models
from django.db.models.signals import post_save
from django.dispatch import receiver

from fapilog.integrations.django import audited


@audited(exclude=["notes"], contains_phi=True)
class Patient(models.Model):
    """A patient."""

    name = models.CharField(max_length=80)
    born = models.DateField(null=True, blank=True)
    notes = models.TextField(blank=True)
    access_token = models.CharField(max_length=80, blank=True)
    visits = models.IntegerField(default=0)
    findings = models.JSONField(default=dict)
    ward = models.ForeignKey("Ward", models.SET_NULL, null=True)
    watched_by = models.ManyToManyField(User)
    relatives = models.ManyToManyField("self", blank=True)

    def __str__(self) -> str:
        """Return the name."""
        return f"{self.name}"


audited(User, exclude=["last_login"])


class Ward(models.Model):
    """A ward, of which nothing is recorded."""

    name = models.CharField(max_length=80)


class Inpatient(Patient):
    """A patient, as the wards see them."""

    class Meta:
        """In the table of the patients."""

        proxy = True


class Newborn(Patient):
    """A patient who was born here."""

    weight = models.IntegerField()


class Badge(models.Model):
    """A badge, whose number is given by the site."""

    number = models.UUIDField(primary_key=True)
    pin = models.CharField(max_length=8)
    owner = models.ForeignKey(Patient, models.CASCADE, null=True)
    prints = models.IntegerField(default=0)


@receiver(post_save, sender=Badge)
def printed(instance: Badge, **_: object) -> None:
    """Print a badge when it is saved first, and save that."""
    if not instance.prints:
        instance.prints = 1
        instance.save()


audited(Badge, mask=["pin"])
