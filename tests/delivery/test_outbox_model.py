"""Outboxes, other sides, crashes and people in any order, against a model of what has arrived."""

import itertools
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from fapilog import (
    AmbiguousDeliveryError,
    AuditEvent,
    DeliveryError,
    OutboxError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.delivery.outbox import Outbox, OutboxState
from tests.clock import jumping_backend, stop_clock_in_threads
from tests.doubles.scripted_dispatcher import an_event

LEASE = 60.0
TIMEOUT = 200.0
SCHEDULE = (10.0, 100.0, 1000.0)

# What becomes of the next attempts; after them, all succeed.
OUTCOMES: dict[str, Callable[[], Exception | None]] = {
    "delivered": lambda: None,
    "slow": lambda: None,
    "hanging": lambda: None,
    "transient": lambda: TransientDeliveryError("busy"),
    "throttled": lambda: TransientDeliveryError("slowly", retry_after=30.0),
    "ambiguous": lambda: AmbiguousDeliveryError("no answer"),
    "permanent": lambda: PermanentDeliveryError("gone"),
    "error": lambda: ValueError("x"),
}
DELAYS = {"slow": 100.0, "hanging": 1000.0}

outcomes = st.lists(st.sampled_from(sorted(OUTCOMES)), max_size=8)
seconds = st.sampled_from([0.0, 1.0, 20.0, 150.0, 2000.0])


class OtherSide:
    """
    Does as it is told, and holds each call against what has arrived.

    Attributes:
        plan: What becomes of the next attempts.
        arrived: The events that have arrived, and of which the outbox was told.
        perhaps: The events that have arrived, and of which the outbox may not have been told.
        again: The events that were sent although they had arrived.
        crashing: Whether the outbox is about to be lost with what it was told.
    """

    def __init__(self) -> None:
        self.plan: list[str] = []
        self.arrived: set[str] = set()
        self.perhaps: set[str] = set()
        self.again: set[str] = set()
        self.crashing = False

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        # The outbox takes whatever is raised here for a failure.
        self.again |= self.arrived & {event.event_id}
        outcome = self.plan.pop(0) if self.plan else "delivered"
        await anyio.sleep(DELAYS.get(outcome, 0.0))
        error = OUTCOMES[outcome]()
        if error is not None:
            raise error
        (self.perhaps if self.crashing else self.arrived).add(event.event_id)


class Deliveries(RuleBasedStateMachine):
    """What can happen to outboxes that share a file, and what must have arrived at the end."""

    backend = "asyncio"

    def __init__(self) -> None:
        super().__init__()
        self._scratch = TemporaryDirectory()
        self._numbers = itertools.count(1)
        self._time = 1_750_000_000.0
        self.other_side = OtherSide()
        self.taken: list[AuditEvent] = []
        self.discarded: set[str] = set()
        self.outbox = self._new()

    def teardown(self) -> None:
        try:
            self._run(self._finish)
        finally:
            self.outbox._store.place.close()
            self._scratch.cleanup()

    def _new(self) -> Outbox:
        return Outbox(
            self.other_side,
            Path(self._scratch.name) / "alerts.db",
            schedule=SCHEDULE,
            concurrency=2,
            timeout=TIMEOUT,
            lease=LEASE,
            stop_timeout=0.0,
            now=lambda: self._time + anyio.current_time(),
        )

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do *work*, in an event loop whose time goes on where that of the last one ended."""

        async def timed() -> float:
            began = anyio.current_time()
            self._time -= began
            await work()
            return anyio.current_time()

        backend, options = jumping_backend(self.backend)
        self._time += anyio.run(timed, backend=backend, backend_options=options)

    async def _send(self, outbox: Outbox, count: int) -> None:
        for _ in range(count):
            event = an_event(next(self._numbers))
            await outbox.send_alert(event, severity="critical")
            self.taken.append(event)

    async def _finish(self) -> None:
        """Let the other side work: what was taken arrives."""
        self.other_side.plan = []
        async with self.outbox as outbox:
            await anyio.sleep(10_000)
            await outbox.retry()
            await anyio.sleep(100)
            assert outbox.state == OutboxState()
            for event in self.taken:
                found = await outbox.find(event.event_id)
                assert found is not None
                if found.status == "delivered":
                    assert event.event_id in self.other_side.arrived | self.other_side.perhaps
                else:
                    assert found.status == "discarded"
                    assert event.event_id in self.discarded - self.other_side.arrived

    @invariant()
    def nothing_is_sent_again(self) -> None:
        assert not self.other_side.again

    @rule(count=st.integers(1, 4), plan=outcomes)
    def take_only(self, count: int, plan: list[str]) -> None:
        """Take alerts without being entered: each is tried once."""
        self.other_side.plan = plan
        self._run(partial(self._send, self.outbox, count))

    @rule(count=st.integers(0, 4), plan=outcomes, duration=seconds)
    def work(self, count: int, plan: list[str], duration: float) -> None:
        """Be entered for a while, and left, whatever is under way."""
        self.other_side.plan = plan

        async def work() -> None:
            async with self.outbox as outbox:
                await self._send(outbox, count)
                await anyio.sleep(duration)

        self._run(work)

    @rule(duration=seconds)
    def stand_still(self, duration: float) -> None:
        self._time += duration

    @rule(count=st.integers(0, 4), plan=outcomes, duration=seconds)
    def crash(self, count: int, plan: list[str], duration: float) -> None:
        """Lose an outbox, with all that it knows, whatever is under way; another takes its place."""
        self.other_side.plan = plan
        self.other_side.crashing = True

        async def work() -> None:
            async with self.outbox as outbox:
                await self._send(outbox, count)
                # All that happens from now on is lost with it.
                outbox._store._commits._commit = _lose
                await anyio.sleep(duration)

        self._run(work)
        self.other_side.crashing = False
        self.outbox._store.place.close()
        self.outbox = self._new()

    @rule(count=st.integers(0, 4), plan=outcomes, duration=seconds)
    def file_fails(self, count: int, plan: list[str], duration: float) -> None:
        """Be without the file for a while: nothing that is known is lost by that."""
        self.other_side.plan = plan

        async def work() -> None:
            async with self.outbox as outbox:
                await self._send(outbox, count)
                commit, outbox._store._commits._commit = outbox._store._commits._commit, _lose
                await anyio.sleep(duration)
                # The caller is told where neither the file nor the other side can be used.
                with suppress(DeliveryError, ValueError):
                    await self._send(outbox, count)
                outbox._store._commits._commit = commit
                await anyio.sleep(10)

        self._run(work)

    @rule(count=st.integers(0, 4), plan=outcomes, duration=seconds)
    def two(self, count: int, plan: list[str], duration: float) -> None:
        """Let two share the file for a while."""
        self.other_side.plan = plan

        async def work() -> None:
            async with self.outbox as outbox, self._new() as second:
                await self._send(outbox, count)
                await self._send(second, count)
                await anyio.sleep(duration)

        self._run(work)

    @rule(count=st.integers(1, 4), plan=outcomes, duration=seconds)
    def two_of_which_one_stands_still(self, count: int, plan: list[str], duration: float) -> None:
        """Let one lose its leases, while another works."""
        self.other_side.plan = plan
        # Both may send what the first loses, and then nobody knows.
        self.other_side.crashing = True

        async def work() -> None:
            async with self.outbox as outbox, self._new() as second:
                await self._send(outbox, count)
                outbox._sender._next_renewal = float("inf")
                await anyio.sleep(duration)
                await self._send(second, count)
            outbox._sender._next_renewal = 0.0

        self._run(work)
        self.other_side.crashing = False

    @rule(which=st.integers(0, 100))
    def discard(self, which: int) -> None:
        if self.taken:
            event_id = self.taken[which % len(self.taken)].event_id

            async def discard() -> None:
                if await self.outbox.discard([event_id], reason="a drill"):
                    self.discarded.add(event_id)

            self._run(discard)

    @rule(which=st.none() | st.integers(0, 100))
    def retry(self, which: int | None) -> None:
        async def retry() -> None:
            if which is None or not self.taken:
                await self.outbox.retry()
            else:
                event_id = self.taken[which % len(self.taken)].event_id
                if await self.outbox.retry([event_id]):
                    self.discarded.discard(event_id)

        self._run(retry)


def _lose(calls: Iterable[Any]) -> list[Any]:
    raise OutboxError("the file is gone")


@pytest.fixture(params=["asyncio", "trio"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Deliveries]:
    """The machine, on either backend."""
    stop_clock_in_threads(monkeypatch)
    monkeypatch.setattr(Deliveries, "backend", request.param)
    return Deliveries


@pytest.mark.slow
def test_whatever_happens(machine: type[Deliveries]) -> None:
    """After any sequence of failures, crashes and people, what was taken arrives, and twice only if nobody knew."""
    chosen = settings(max_examples=4, stateful_step_count=8, database=None, deadline=None, derandomize=True)
    run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.torture
def test_whatever_happens_for_long(machine: type[Deliveries], rounds: Iterator[int]) -> None:
    """After any long sequence of failures, crashes and people, what was taken arrives."""
    chosen = settings(max_examples=10, stateful_step_count=25, database=None, deadline=None)
    for number in rounds:
        run_state_machine_as_test(hypothesis.seed(number)(machine), settings=chosen)
