"""Indices are kept by stretches of a million records: a question goes from one to the next."""

from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType
from fapilog.core._reading import intact
from fapilog.record import chain
from fapilog.record.chain import ChainHead
from fapilog.storage._anchor import Anchor
from fapilog.storage.protocol import EventFilter
from fapilog.storage.sqlite import SQLiteStorage

pytestmark = [pytest.mark.real_time, pytest.mark.may_block, pytest.mark.one_backend]

END = 1 << 20


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return an empty storage of each kind that has indices."""
    if request.param == "sqlite":
        return SQLiteStorage(tmp_path / "audit.db")
    server, name = request.getfixturevalue("database"), request.getfixturevalue("name")
    from fapilog.storage.postgres import PostgresStorage  # noqa: PLC0415  needs an extra

    return PostgresStorage(server.dsn(user="service"), name)


def around_the_end() -> tuple[ChainHead, list[bytes]]:
    """Return twelve records, of two users in turns, six of them in the next stretch, and the head before them."""
    begin = head = ChainHead(END - 7, "0" * 64)
    lines = []
    for number in range(END - 6, END + 6):
        event = AuditEvent(
            event_type=AuditEventType.DATA_ACCESS, message="m", user_id=f"{number % 2}", client_ip="10.0.0.1"
        )
        line, seal = chain.seal(chain.body_to_store(event), number, head.checksum)
        lines.append(line.removesuffix(b"\n"))
        head = ChainHead(number, seal.checksum)
    return begin, lines


@pytest.mark.slow_on_trio
async def test_the_newest_of_both_stretches(storage: Any) -> None:
    """A question that takes an index finds the newest first, on both sides of the end of a stretch, within bounds."""
    begin, lines = around_the_end()
    removed = Anchor(sequence_number=begin.sequence_number, checksum="0" * 64, file="", record=END)
    await storage.append_lines(begin, lines, removed=removed)

    async def found(limit: int, **asked: Any) -> list[int]:
        events = intact(await storage.find(EventFilter(**asked), limit))
        return [(event.sequence_number or 0) - END for event in events]

    assert await found(99, client_ip="10.0.0.1") == list(range(5, -7, -1))
    assert await found(99, user_id="0", client_ip="10.0.0.1") == [4, 2, 0, -2, -4, -6]
    assert await found(4, user_id="0") == [4, 2, 0, -2]
    assert await found(99, user_id="1", before=END + 3) == [1, -1, -3, -5]
    assert await found(99, user_id="1", before=END) == [-1, -3, -5]
    assert await found(99, user_id="0", after=END - 1) == [4, 2, 0]
    assert await found(99, user_id="1", after=END - 4, before=END + 2) == [1, -1, -3]
    assert await found(99, user_id="nobody") == []
    await storage.aclose()
