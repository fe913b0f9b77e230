"""The writer and the reader of one trail, side by side, for tests that need both."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from fapilog.storage._reader import TrailReader
from fapilog.storage._writer import TrailWriter
from fapilog.storage.files import utc_now

__all__ = ["TrailFiles"]


class TrailFiles:
    """A trail's writer and reader, as a `FileStorage` has them."""

    def __init__(self, directory: Path, *, durable: bool, now: Callable[[], datetime] = utc_now) -> None:
        self.directory = directory
        self.writer = TrailWriter(directory, durable=durable, now=now)
        self.append = self.writer.append
        self.append_at_once = self.writer.append_at_once
        self.close = self.writer.close
        reader = TrailReader(directory, durable=durable)
        self.verify = reader.verify
        self.newest_first = reader.newest_first
        self.read = reader.read
