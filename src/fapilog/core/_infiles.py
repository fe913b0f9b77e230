"""Whether a trail is in files, asked without importing what is needed for files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..storage.protocol import AuditStorage

if TYPE_CHECKING:
    from ..storage.files import FileStorage

__all__ = ["files_of", "in_files"]


def files_of(storage: AuditStorage) -> FileStorage | None:
    """Return *storage* if it keeps a trail in files; None if not."""
    # Half of the modules of a trail are for its files. A process whose trail is elsewhere never loads them.
    if not hasattr(type(storage), "append_record"):
        return None
    from ..storage.files import FileStorage  # noqa: PLC0415

    return storage if isinstance(storage, FileStorage) else None


def in_files(name: str, storage: AuditStorage) -> FileStorage:
    """Return *storage* if it keeps a trail in files; raise TypeError, whose message begins with *name*, if not."""
    files = files_of(storage)
    if files is None:
        raise TypeError(f"{name}: expected a trail in files; got a {type(storage).__qualname__}")
    return files
