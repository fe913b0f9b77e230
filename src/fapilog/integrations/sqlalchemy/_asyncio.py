"""The sessions for asyncio, if they can be imported: SQLAlchemy 2.1 does not bring greenlet, which they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["AsyncSession", "async_scoped_session", "async_session", "async_sessionmaker"]

try:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_session, async_sessionmaker
except ImportError:
    if not TYPE_CHECKING:

        class _Absent:
            """In the place of each of the classes: no object is one."""

            def __class_getitem__(cls, kind):
                return cls

        AsyncSession = async_scoped_session = async_sessionmaker = _Absent

        def async_session(_session):
            return None
