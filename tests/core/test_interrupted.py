"""A signal handler or a destructor that logs an event while its own thread logs one."""

import itertools
from pathlib import Path
from typing import Literal

import pytest

import fapilog
from fapilog import AuditEventType, AuditStorageError, AuditTrail, ChainStatus
from fapilog.testing import RecordingDispatcher
from tests.doubles.interrupting import interrupted_at

OURS = Path(fapilog.__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AuditEventType.DATA_ACCESS, AuditEventType.AUTHENTICATION_FAILED], ids=str)
@pytest.mark.parametrize("durability", ["write", "fsync"])
def test_whoever_interrupts_an_event_is_answered(
    durability: Literal["write", "fsync"], kind: AuditEventType, tmp_path: Path
) -> None:
    """Before any line of ours, its event is stored or refused, that of the thread is stored, and nothing hangs."""
    trail = AuditTrail(storage_path=tmp_path, durability=durability, alert_dispatcher=RecordingDispatcher())
    stored = {trail.sync.log_event(kind, "this one opens the files")}
    refused: list[str] = []

    def interrupt() -> None:
        try:
            stored.add(trail.sync.log_event(kind, "within"))
        except AuditStorageError as error:
            refused.append(str(error))

    for line in itertools.count(1):
        answers = len(stored) + len(refused)
        with interrupted_at(line, OURS, interrupt):
            event_id = trail.sync.log_event(kind, "whole")
        if len(stored) + len(refused) == answers:
            break  # it has not so many lines
        stored.add(event_id)
    trail.sync.stop()
    assert {event.event_id for event in trail.sync.events() if event.event_type is kind} == stored | {event_id}
    assert refused
    assert all("called from within" in each for each in refused)
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK
