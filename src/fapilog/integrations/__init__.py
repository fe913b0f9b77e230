"""
Integrations with frameworks and libraries: one module per kind of application.

`asgi` is a middleware for Starlette, FastAPI, Litestar and every other ASGI application; `django` is an app for Django;
`flask` is an extension for Flask. `sqlalchemy` records the changes of objects of mapped classes.
"""

from __future__ import annotations

__all__: list[str] = []
