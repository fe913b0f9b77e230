"""The writer and the reader of one trail, side by side, for tests that need both."""

import functools
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from fapilog import AuditEvent
from fapilog.record.chain import Seal
from fapilog.record.damage import DamagedRecord
from fapilog.record.errors import AuditStorageError
from fapilog.storage._files.access import OWNER, Access
from fapilog.storage._files.effort import Effort
from fapilog.storage._files.reader import TrailReader
from fapilog.storage._files.verifying import verify
from fapilog.storage._files.writer import TrailWriter
from fapilog.storage.files import utc_now
from fapilog.storage.protocol import EventFilter

__all__ = ["TrailFiles", "whole"]


class TrailFiles:
    """A trail's writer and reader, as a `FileStorage` has them."""

    def __init__(
        self, directory: Path, *, durable: bool, now: Callable[[], datetime] = utc_now, access: Access = OWNER
    ) -> None:
        self.directory = directory
        self.writer = TrailWriter(directory, durable=durable, now=now, access=access)
        self.append_at_once = self.writer.append_at_once
        self.close = self.writer.close
        reader = TrailReader(directory, durable=durable)
        self.verify = functools.partial(verify, directory)
        self.reader = reader

    def append(self, bodies: list[bytes]) -> list[Seal]:
        """Append records that are all stored; raise the error of the first that is not."""
        seals: list[Seal] = []
        for result in self.writer.append(bodies):
            if isinstance(result, AuditStorageError):
                raise result
            assert result is not None
            seals.append(result)
        return seals

    def newest_first(self) -> Iterator[AuditEvent]:
        """Yield all events, the newest first; there must be no holes."""
        with self.reader._days.failures():
            yield from (whole(item) for item, _ in self.reader._newest_first(EventFilter(), Effort(), None))

    def read(self, after: int, limit: int) -> list[AuditEvent]:
        """Return the events after *after*; there must be no holes."""
        return list(map(whole, self.reader.read(after, limit)))


def whole(item: AuditEvent | DamagedRecord) -> AuditEvent:
    """Return *item*, which must be an event."""
    assert isinstance(item, AuditEvent), item
    return item
