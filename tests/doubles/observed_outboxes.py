"""Outboxes for observers: one that is counted by hand, and a real one."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from fapilog import PermanentDeliveryError, TransientDeliveryError
from fapilog.delivery.outbox import Outbox, OutboxState
from tests.doubles.scripted_dispatcher import Scripted, an_event


class Counted:
    """An outbox and its state in one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pending = 0
        self.oldest: float | None = None
        self.dead = 0

    @property
    def state(self) -> "Counted":
        return self


async def until(outbox: Outbox, state: OutboxState) -> None:
    """Wait until there is as much in *outbox*."""
    with anyio.fail_after(60):
        while (outbox.state.pending, outbox.state.dead) != (state.pending, state.dead):  # noqa: ASYNC110  of the file
            await anyio.sleep(0.01)


@asynccontextmanager
async def kept(directory: Path) -> AsyncIterator[Outbox]:
    """Yield an outbox with a dead alert and one that has waited for 100 seconds."""
    inner = Scripted(PermanentDeliveryError("gone"), TransientDeliveryError("busy"))
    outbox = Outbox(inner, directory / "alerts.db", name="slack", now=lambda: time.time() - 100)
    with pytest.MonkeyPatch.context() as patch:
        # How often an outbox looks at its state.
        patch.setattr("fapilog.delivery.outbox._sender._STATE_EVERY", 0.01)
        async with outbox:
            for number in (1, 2):
                await outbox.send_alert(an_event(number), severity="critical")
                await until(outbox, OutboxState(pending=number - 1, dead=1))
            inner.outcomes = [None]
            yield outbox


async def sent(outbox: Outbox) -> None:
    """Let *outbox* send all that it keeps."""
    await outbox.retry([an_event(number).event_id for number in (1, 2)])
    await until(outbox, OutboxState())
