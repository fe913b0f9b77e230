"""
Integrations with frameworks and libraries: one module, or folder, for each.

- Requests: `asgi` and `wsgi` are middleware for any application of that interface, `flask` an extension (`_logins` has
  its sign-ins), `django` an app. `_requests` has their options and the event of a request, and `_headers` reads the
  client's address.
- Tasks: `celery`, `dramatiq` and `arq` carry the user to the worker; `_tasks` has what these share.
- Changes of rows: `sqlalchemy`, and `django` for its models; `_rowchanges` makes the events.
- Log calls: `logging` and `structlog`; `_logrecords` reads a call, and `_backlog` stores its event.

All share `_failures`, which keeps what can't be recorded from the application, and `_secrets`.
"""

from __future__ import annotations

__all__: list[str] = []
