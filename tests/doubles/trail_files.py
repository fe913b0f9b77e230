"""The writer and the reader of one trail, side by side, for tests that need both."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from fapilog.record.chain import Seal
from fapilog.record.errors import AuditStorageError
from fapilog.storage._reader import TrailReader
from fapilog.storage._writer import TrailWriter
from fapilog.storage.files import utc_now

__all__ = ["TrailFiles"]


class TrailFiles:
    """A trail's writer and reader, as a `FileStorage` has them."""

    def __init__(self, directory: Path, *, durable: bool, now: Callable[[], datetime] = utc_now) -> None:
        self.directory = directory
        self.writer = TrailWriter(directory, durable=durable, now=now)
        self.append_at_once = self.writer.append_at_once
        self.close = self.writer.close
        reader = TrailReader(directory, durable=durable)
        self.verify = reader.verify
        self.newest_first = reader.newest_first
        self.read = reader.read

    def append(self, bodies: list[bytes]) -> list[Seal]:
        """Append records that are all stored; raise the error of the first that is not."""
        seals: list[Seal] = []
        for result in self.writer.append(bodies):
            if isinstance(result, AuditStorageError):
                raise result
            assert result is not None
            seals.append(result)
        return seals
