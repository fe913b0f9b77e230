"""The site as servers call it."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integrations.apps.django_site.settings")
wsgi = get_wsgi_application()
asgi = get_asgi_application()
# With the style sheets of the admin, for a browser.
browsed = StaticFilesHandler(wsgi)
