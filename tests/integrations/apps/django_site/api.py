"""The API of the site, by Django REST framework."""

from typing import Any, ClassVar

from django.urls import path
from rest_framework import permissions, throttling, views
from rest_framework.authentication import BasicAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from fapilog.integrations.django import trail


class OncePerMinute(throttling.AnonRateThrottle):
    """How often somebody unknown may ask."""

    rate = "1/min"


class ReadPatient(views.APIView):
    """A patient, for all who have signed in."""

    authentication_classes = (BasicAuthentication,)
    permission_classes: ClassVar[tuple[Any, ...]] = (permissions.IsAuthenticated,)

    def get(self, request: Request, number: int) -> Response:
        """Show a patient."""
        trail.sync.log_data_access(f"clinic.patient/{number}", "read")
        return Response({"number": number})


class ReadUsers(ReadPatient):
    """The users, for the staff."""

    permission_classes = (permissions.IsAdminUser,)


class ReadStatus(ReadPatient):
    """Whether the site is up, for everybody, but not too often."""

    permission_classes = ()
    throttle_classes = (OncePerMinute,)


urlpatterns = [
    path("api/patients/<int:number>", ReadPatient.as_view()),
    path("api/users/<int:number>", ReadUsers.as_view()),
    path("api/status/<int:number>", ReadStatus.as_view()),
]
