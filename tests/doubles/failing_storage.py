"""A storage in memory that refuses, hangs, or can't be read, as it is told."""

from collections.abc import Callable, Sequence

import anyio

from fapilog import AuditChainVerificationResult, AuditEvent, AuditStorageError
from fapilog.record.chain import Seal
from fapilog.record.damage import DamagedRecord
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import EventFilter

__all__ = ["FailingStorage"]


class FailingStorage:
    """
    Keeps events in memory.

    Attributes:
        asked: How often it was searched.
        refuses: Whether it does not store an event.
        hangs: Whether it never stores an event.
        is_unreadable: Whether it can't be searched.
    """

    def __init__(
        self,
        *,
        refuses: Callable[[AuditEvent], bool] = lambda _: False,
        hangs: bool = False,
        is_unreadable: bool = False,
    ) -> None:
        self._memory = MemoryStorage()
        self.asked = 0
        self.refuses = refuses
        self.hangs = hangs
        self.is_unreadable = is_unreadable

    @property
    def events(self) -> list[AuditEvent]:
        """The stored events, the oldest first."""
        return self._memory.events

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        if self.refuses(event):
            raise AuditStorageError("disk full")
        if self.hangs:
            await anyio.sleep_forever()
        return await self._memory.append(event, once=once)

    async def find(self, wanted: EventFilter, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        self.asked += 1
        if self.is_unreadable:
            raise AuditStorageError("damaged")
        return await self._memory.find(wanted, limit)

    async def read(self, after: int, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        return await self._memory.read(after, limit)

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        return await self._memory.read_lines(after, limit)

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        return await self._memory.verify(progress)

    async def aclose(self) -> None:
        await self._memory.aclose()
