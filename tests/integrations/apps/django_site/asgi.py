"""The site for ASGI servers, under which its trail lives as long as the server."""

from django.core.asgi import get_asgi_application

from fapilog.integrations.asgi import with_lifespan
from fapilog.integrations.django import trail

application = with_lifespan(get_asgi_application(), trail)
