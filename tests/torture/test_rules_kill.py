"""Processes that apply a rule are killed: every time that the rule was met is reported, once."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest

from fapilog import AuditEvent, AuditTrail, CompliancePolicy
from fapilog.record.kinds import RULE_MET
from tests.doubles.trail_writers import guesser, listen
from tests.programs.guessing_on import RULE

pytestmark = pytest.mark.torture


def expected(events: list[AuditEvent]) -> list[int]:
    """Return the numbers of the records that meet the rule, one record after the other."""
    numbers: list[int] = []
    times: dict[str | None, list[float]] = {}
    last: dict[str | None, float] = {}
    for event in events:
        if event.event_type == RULE_MET:
            continue
        user, now = event.user_id, event.timestamp.timestamp()
        newest = [*times.get(user, []), now][-RULE.count :]
        times[user] = newest
        is_open = user not in last or abs(now - last[user]) > RULE.within
        if is_open and len(newest) == RULE.count and all(abs(now - each) <= RULE.within for each in newest):
            last[user] = now
            numbers.append(event.sequence_number or 0)
    return numbers


def test_kills(tmp_path: Path, rounds: Iterator[int]) -> None:
    """Two processes are killed and started again, at any moment; in the end nothing is missing or there twice."""
    reported = 0
    for number in rounds:
        directory = tmp_path / str(number)
        chance = random.Random(number)  # noqa: S311
        with ExitStack() as stack:
            alive = [stack.enter_context(guesser(directory, seed)) for seed in range(2)]
            for seed in range(2, 8):
                # By what it has logged, and not by the time: a busy machine takes seconds to start a process.
                enough = chance.randrange(150)
                listen(alive, lambda: len(alive[0].stored) > enough)  # noqa: B023
                alive.pop(0).kill()
                alive.append(stack.enter_context(guesser(directory, seed)))
            listen(alive, lambda: all(len(each.stored) > 20 for each in alive))  # noqa: B023
            for each in alive:
                each.kill()
        events = anyio.run(all_events, directory)
        found = [event.metadata["record"] for event in events if event.event_type == RULE_MET]
        assert sorted(found) == expected(events)
        reported += len(found)
    assert reported


async def all_events(directory: Path) -> list[AuditEvent]:
    """Start a last process, which reports what is missing, and return all events."""
    async with AuditTrail(CompliancePolicy(rules=[RULE], alert_on_security_events=False), directory) as trail:
        await trail.drain()
        assert (await trail.verify_chain_from_storage()).valid
        return [event async for event in trail.events(oldest_first=True)]
