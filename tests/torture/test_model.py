"""Writers, clocks, crashes and failing disks in any order, against a model of what is stored: a list."""

import errno
import itertools
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from fapilog.core.audit import ChainStatus
from fapilog.record import chain
from fapilog.record.errors import AuditStorageError
from tests.doubles.trail_files import TrailFiles, whole
from tests.doubles.trail_oracle import lines, records
from tests.programs.appending_files import bodies

WRITERS = 3
which_writer = st.integers(0, WRITERS - 1)
# How much of what is written or left, in hundredths.
parts = st.integers(0, 100)


@contextmanager
def failing_write(part: int) -> Generator[None]:
    """Let the next write take a part of its data, and the one after it fail, as on a full disk."""
    write = os.write
    calls = itertools.count()

    def fail(fd: int, data: bytes) -> int:
        if next(calls) == 0 and part:
            return write(fd, data[: max(1, len(data) * part // 101)])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", fail)
        yield


@contextmanager
def failing_sync() -> Generator[None]:
    """Let the syncs of files fail."""

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        yield


class Trail(RuleBasedStateMachine):
    """What can happen to a trail, and what must be there afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._scratch = TemporaryDirectory()
        self.directory = Path(self._scratch.name) / "trail"
        self.stored: list[str] = []
        self.piece = b""
        self.pieces: set[bytes] = set()
        self._numbers = itertools.count(1)
        self._days = [1] * WRITERS
        self._writers = [self._writer(number) for number in range(WRITERS)]

    def teardown(self) -> None:
        for writer in self._writers:
            writer.close()
        self._scratch.cleanup()

    def _writer(self, number: int) -> TrailFiles:
        return TrailFiles(self.directory, durable=True, now=lambda: datetime(2026, 1, self._days[number], tzinfo=UTC))

    def _new(self, count: int) -> list[str]:
        return [f"event {next(self._numbers)}" for _ in range(count)]

    def _mended(self) -> None:
        if self.piece:
            self.pieces.add(self.piece)
        self.piece = b""

    def _may_have_mended(self) -> None:
        """Look whether a writer that failed has come as far as that."""
        if self.piece and lines(self.directory)[-1].endswith(b'"}'):
            self._mended()

    def _keep_visible(self, ids: list[str]) -> int:
        """Count the first of *ids* whose records were written whole, and so are there to stay."""
        there = {event.event_id for event in self._writers[0].newest_first()} & set(ids)
        assert there == set(ids[: len(there)])
        self.stored += ids[: len(there)]
        return len(there)

    @rule(number=which_writer, count=st.integers(1, 3))
    def append(self, number: int, count: int) -> None:
        ids = self._new(count)
        seals = self._writers[number].append(bodies(ids, datetime(2026, 1, 1, tzinfo=UTC)))
        assert [seal.sequence_number for seal in seals] == list(
            range(len(self.stored) + 1, len(self.stored) + count + 1)
        )
        self.stored += ids
        self._mended()

    @rule(number=which_writer, count=st.integers(1, 3), part=parts)
    def fail_to_write(self, number: int, count: int, part: int) -> None:
        ids = self._new(count)
        with failing_write(part), pytest.raises(AuditStorageError, match=os.strerror(errno.ENOSPC)):
            self._writers[number].append(bodies(ids, datetime(2026, 1, 1, tzinfo=UTC)))
        self._may_have_mended()
        assert self._keep_visible(ids) < count

    @rule(number=which_writer, count=st.integers(1, 3))
    def fail_to_sync(self, number: int, count: int) -> None:
        ids = self._new(count)
        with failing_sync(), pytest.raises(AuditStorageError, match=os.strerror(errno.EIO)):
            self._writers[number].append(bodies(ids, datetime(2026, 1, 1, tzinfo=UTC)))
        self._may_have_mended()
        # None, where an earlier sync failed too, and had to be made good first.
        assert self._keep_visible(ids) in {0, count}

    @rule(number=which_writer)
    def close(self, number: int) -> None:
        self._writers[number].close()

    @rule(number=which_writer, by=st.integers(-1, 2))
    def turn_clock(self, number: int, by: int) -> None:
        self._days[number] = max(1, min(28, self._days[number] + by))

    @rule(part=parts)
    def crash(self, part: int) -> None:
        """Leave a part of the next record, as a writer does that is killed; all of it is as good as stored."""
        newest = max(self.directory.glob("audit_*.jsonl"), default=None)
        if self.piece or newest is None or not newest.read_bytes().endswith(b"\n"):
            return  # a writer mends what another has left before it writes itself
        (event_id,) = self._new(1)
        last = records(self.directory)[-1]
        (body,) = bodies([event_id], datetime(2026, 1, 1, tzinfo=UTC))
        record = chain.seal(body, len(self.stored) + 1, last["checksum"])[0][:-1]
        left = record[: len(record) * part // 100]
        with newest.open("ab") as file:
            file.write(left)
        if left == record:
            self.stored.append(event_id)
        else:
            self.piece = left

    @invariant()
    def is_as_it_should_be(self) -> None:
        files = self._writers[0]
        result = files.verify()
        assert result.valid, result
        assert result.events_checked == len(self.stored)
        assert (result.status is ChainStatus.TORN_TAIL) == bool(self.piece or self.pieces)
        # Perhaps there is also a part of the next, for which there was no room.
        assert self.pieces <= {path.read_bytes() for path in self.directory.glob("*.torn-*")}
        newest = [whole(event).event_id for event in itertools.islice(files.newest_first(), 5)]
        # A last record without its newline is found when the next writer has ended it.
        assert newest in (self.stored[::-1][:5], self.stored[-2::-1][:5])


def test_whatever_happens(rounds: Iterator[int]) -> None:
    """After any sequence of appends, failures, crashes and clocks, a trail is valid and has what was stored."""
    chosen = settings(max_examples=50, stateful_step_count=40, database=None, deadline=None)
    for number in rounds:
        run_state_machine_as_test(hypothesis.seed(number)(Trail), settings=chosen)
