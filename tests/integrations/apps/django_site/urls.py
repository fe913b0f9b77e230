"""The pages of the site."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from fapilog.context import bind_audit_context
from fapilog.integrations.django import trail

from .models import Patient


def read_patient(request: HttpRequest, number: int) -> HttpResponse:
    """Show a patient."""
    trail.sync.log_data_access(f"clinic.patient/{number}", "read", contains_phi=True)
    return HttpResponse(f"patient {number}")


async def watch_patient(request: HttpRequest, number: int) -> HttpResponse:
    """Show a patient, without a thread."""
    await trail.log_data_access(f"clinic.patient/{number}", "watch")
    return HttpResponse(f"patient {number}")


def fail(request: HttpRequest, number: int) -> HttpResponse:
    """Record, and raise."""
    bind_audit_context(tenant=f"tenant-{number}")
    trail.sync.log_data_access(f"clinic.patient/{number}", "break")
    raise RuntimeError("of the test")


def export(request: HttpRequest, number: int) -> StreamingHttpResponse:
    """Stream patients, and record each."""

    def rows() -> Iterator[str]:
        for each in range(number):
            trail.sync.log_data_access(f"clinic.patient/{each}", "export")
            yield f"{each}\n"

    return StreamingHttpResponse(rows())


async def aexport(request: HttpRequest, number: int) -> StreamingHttpResponse:
    """Stream patients without a thread, and record each."""

    async def rows() -> AsyncIterator[str]:
        for each in range(number):
            await trail.log_data_access(f"clinic.patient/{each}", "export")
            yield f"{each}\n"

    return StreamingHttpResponse(rows())


def visit(request: HttpRequest, number: int) -> HttpResponse:
    """Count a visit of a patient."""
    patient, _ = Patient.objects.get_or_create(pk=number, defaults={"name": f"patient {number}"})
    patient.visits += 1
    patient.save()
    return HttpResponse(f"{patient.visits}")


urlpatterns: list[Any] = [
    path("admin/", admin.site.urls),
    path("patients/<int:number>", read_patient),
    path("patients/<int:number>/watch", watch_patient),
    path("patients/<int:number>/break", fail),
    path("patients/<int:number>/visit", visit),
    path("export/<int:number>", export),
    path("aexport/<int:number>", aexport),
]
