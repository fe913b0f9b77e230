"""A Django service, under WSGI and ASGI: ``/N`` logs an event that alerts, and answers with its id."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.programs.served import KIND, trail

if not settings.configured:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", USE_TZ=True)


def view(_: HttpRequest, number: int) -> HttpResponse:
    """Log without await, or by asgiref's bridge."""
    if number % 3 == 0:
        log: Any = async_to_sync(trail.log_security_event)
        return HttpResponse(log(KIND, f"{number}"))
    return HttpResponse(trail.sync.log_security_event(KIND, f"{number}"))


async def async_view(_: HttpRequest, number: int) -> HttpResponse:
    """Log with await, in the loop that Django runs the view in."""
    return HttpResponse(await trail.log_security_event(KIND, f"{number}"))


urlpatterns = [path("<int:number>", view), path("async/<int:number>", async_view)]
wsgi = get_wsgi_application()
asgi = get_asgi_application()
