"""The admin of the site."""

from django.contrib import admin

from fapilog.integrations.django.admin import AuditHistory

from .models import Patient


@admin.register(Patient)
class PatientAdmin(AuditHistory, admin.ModelAdmin):
    """Patients, with who did what to each."""

    fields = ("name", "born", "visits")
