"""Group commit: shared by all that wait, and not disturbed by those that leave."""

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fapilog import AuditStorageError
from fapilog.tasks import groupcommit
from fapilog.tasks.groupcommit import GroupCommit
from fapilog.tasks.loops import without_loop
from tests.doubles.alarms import TimeUp
from tests.doubles.interrupting import interrupted_at, moments


class Disk:
    """Commits numbers by doubling them, as soon as the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.begun = threading.Event()
        self.asks = threading.Event()
        self.asks.set()
        self.committed: list[int] = []

    def commit(self, items: Iterable[int]) -> list[int]:
        assert self.asks.wait(60)
        batch = list(items)
        self.batches.append(batch)
        self.begun.set()
        assert self.open.wait(60)
        if -1 in batch:
            raise AuditStorageError("disk full")
        self.committed += batch
        return [2 * number for number in batch]


@pytest.fixture
def disk() -> Disk:
    """Return a disk that waits for the test."""
    return Disk()


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until *condition* holds."""
    while not condition():
        await anyio.lowlevel.checkpoint()


async def submit(commits: GroupCommit[int, int], number: int, results: dict[int, object]) -> None:
    """Note what became of *number*."""
    try:
        results[number] = await commits.submit(number)
    except AuditStorageError as error:
        results[number] = str(error)


async def test_who_comes_meanwhile_shares_the_next_commit(disk: Disk) -> None:
    """While one commit runs, all callers that come wait for the next, together, and each gets its own result."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(submit, commits, 0, results)
        await until(disk.begun.is_set)
        for number in range(1, 100):
            tasks.start_soon(submit, commits, number, results)
        await until(lambda: len(commits._waiting) == 99)
        assert commits.busy
        disk.open.set()
    assert results == {number: 2 * number for number in range(100)}
    assert [len(batch) for batch in disk.batches] == [1, 99]
    await until(lambda: not commits.busy)


class Part:
    """Commits at most three numbers at a time by doubling them, and fails with the number 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def commit(self, items: Iterable[int]) -> list[int]:
        batch = list(itertools.islice(items, 3))
        self.batches.append(batch)
        if 13 in batch:
            raise AuditStorageError("disk full")
        return [2 * number for number in batch]


async def test_a_commit_may_take_a_part() -> None:
    """Items that a commit does not ask for are the first of the next, in their order, but for one that has left."""
    part = Part()
    commits = GroupCommit(part.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    async with anyio.create_task_group() as tasks, anyio.create_task_group() as leaving:
        with commits._turn:
            for number in range(9):
                (leaving if number == 5 else tasks).start_soon(submit, commits, number, results)
                await until(lambda count=number + 1: len(commits._waiting) == count)  # type: ignore[misc]
            commits._commit_batch()
            await until(lambda: len(results) == 3)
            leaving.cancel_scope.cancel()
            await until(lambda: any(place.is_left for place in commits._taken))
            assert commits.busy
    assert part.batches == [[0, 1, 2], [3, 4, 6], [7, 8]]
    assert results == {number: 2 * number for number in range(9) if number != 5}
    assert without_loop(commits.submit(9)) == 18


async def test_all_that_wait_fail_with_a_part() -> None:
    """Where a part can't be committed, the callers behind it do not wait for the same failure again."""
    part = Part()
    commits = GroupCommit(part.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    async with anyio.create_task_group() as tasks:
        with commits._turn:
            for number in range(11, 20):
                tasks.start_soon(submit, commits, number, results)
                await until(lambda count=number - 10: len(commits._waiting) == count)  # type: ignore[misc]
    assert part.batches == [[11, 12, 13]]
    assert results == dict.fromkeys(range(11, 20), "disk full")


def test_threads_commit_for_the_callers_before_them() -> None:
    """A caller without a loop commits part by part, until its own item is committed, and no caller is forgotten."""
    part = Part()
    commits = GroupCommit(part.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda number=number: without_loop(submit(commits, number, results)))
        for number in range(14, 54)
    ]
    with commits._turn:
        for thread in threads:
            thread.start()
        while len(commits._waiting) < len(threads):
            pass
    for thread in threads:
        thread.join()
    assert results == {number: 2 * number for number in range(14, 54)}
    assert sorted(map(len, part.batches)) == [1] + 13 * [3]


async def test_a_failed_commit_fails_for_all_that_share_it(disk: Disk) -> None:
    """A commit that raises does so for each caller, as an exception of its own, and the next one goes on."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(submit, commits, 0, results)
        await until(disk.begun.is_set)
        for number in (-1, 1):
            tasks.start_soon(submit, commits, number, results)
        await until(lambda: len(commits._waiting) == 2)
        disk.open.set()
    assert results == {0: 0, -1: "disk full", 1: "disk full"}
    assert await commits.submit(2) == 4


async def test_who_is_cancelled_in_time_takes_its_item_back(disk: Disk) -> None:
    """A caller that is cancelled before its commit begins is not in it; the first to come, too, may leave."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    scopes = {number: anyio.CancelScope() for number in (1, 3)}

    async def leave(number: int) -> None:
        with scopes[number]:
            await submit(commits, number, results)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(submit, commits, 0, results)
        await until(disk.begun.is_set)
        tasks.start_soon(leave, 1)
        await until(lambda: len(commits._waiting) == 1)
        tasks.start_soon(submit, commits, 2, results)
        tasks.start_soon(leave, 3)
        await until(lambda: len(commits._waiting) == 3)
        for scope in scopes.values():
            scope.cancel()
        await until(lambda: len(commits._waiting) == 1)
        disk.open.set()
    assert results == {0: 0, 2: 4}
    assert disk.batches == [[0], [2]]


async def test_a_cancelled_leader_takes_nobody_with_it(disk: Disk) -> None:
    """When the caller that runs the commit is cancelled, the commit is finished, and the others get their results."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(submit, commits, 0, results)
                await until(disk.begun.is_set)
                tasks.start_soon(submit, commits, 1, results)
                await until(lambda: len(commits._waiting) == 1)
                scope.cancel()
                disk.open.set()
        await until(lambda: 1 in results)
    assert results[1] == 2
    assert disk.batches == [[0], [1]]


async def test_a_cancelled_caller_commits_nothing(disk: Disk) -> None:
    """Who is cancelled already does not begin."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await commits.submit(0)
    assert scope.cancelled_caught
    assert disk.batches == []
    assert not commits.busy


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_task_cancel_at_any_time(disk: Disk) -> None:
    """Cancelling any caller's task as asyncio does, at any time, leaves no caller waiting and none without result."""
    disk.open.set()
    for victim in range(4):
        for ticks in range(10):
            commits = GroupCommit(disk.commit, interrupted=InterruptedError())
            tasks = [asyncio.ensure_future(commits.submit(number)) for number in range(4)]
            for _ in range(ticks):
                await asyncio.sleep(0)
            tasks[victim].cancel()
            _, pending = await asyncio.wait(tasks, timeout=60)
            assert not pending
            for number, task in enumerate(tasks):
                assert (task.cancelled() and number == victim) or task.result() == 2 * number
            await until(lambda commits=commits: not commits.busy)  # type: ignore[misc]


async def test_an_interrupted_commit_leaves_nobody_in_doubt() -> None:
    """When the thread that commits is interrupted, the callers that share the commit are told that they can't know."""
    results: dict[int, object] = {}

    def commit(batch: Iterable[int]) -> list[int]:
        raise KeyboardInterrupt

    commits = GroupCommit(commit, interrupted=AuditStorageError("stored or not"))
    with pytest.raises(KeyboardInterrupt):
        without_loop(commits.submit(1))
    await submit(commits, 2, results)
    assert results == {2: "stored or not"}


@pytest.mark.slow
@pytest.mark.may_block
@pytest.mark.parametrize("is_failing", [False, True], ids=["working", "failing"])
async def test_an_interrupted_commit_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, *, is_failing: bool
) -> None:
    """Interrupted at any moment, the thread gets that exception, and the callers for which it commits an answer."""
    # This thread commits for all.
    monkeypatch.setattr(GroupCommit, "_call_thread", lambda _: True)
    committed: list[int] = []

    def commit(items: Iterable[int]) -> list[int]:
        batch = list(itertools.islice(items, 2))
        if is_failing:
            raise AuditStorageError("disk full")
        committed.extend(batch)
        return [2 * number for number in batch]

    commits = GroupCommit(commit, interrupted=AuditStorageError("stored or not"))
    for moment in moments(Path(str(groupcommit.__file__)), TimeUp):
        committed.clear()
        results: dict[int, object] = {}
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(submit, commits, number, results)
                await until(lambda: len(commits._waiting) == 3)
                with contextlib.suppress(TimeUp), moment:
                    without_loop(submit(commits, 3, results))
                without_loop(submit(commits, 4, results))
        assert sorted(set(committed)) == sorted(committed)
        assert set(range(5)) - results.keys() <= {3}
        for number, result in results.items():
            assert result == 2 * number or result in {"disk full", "stored or not"}


class Turn:
    """A lock for which this thread is interrupted while it waits, as soon as another one commits; see below."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.RLock()
        self._waits = 0

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._waits += 1
            if self._waits == 1:
                self._disk.asks.set()
                assert self._disk.begun.wait(60)
                raise TimeUp
            self._disk.open.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_an_interrupted_caller_leaves_when_its_commit_is_over() -> None:
    """If another thread commits its item, the item is committed, or is not, when the exception is raised."""
    disk = Disk()
    disk.asks.clear()
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    commits._turn = Turn(disk)  # type: ignore[assignment]
    other = threading.Thread(target=lambda: without_loop(commits.submit(1)))
    other.start()
    while commits._committer is None:
        pass
    with pytest.raises(TimeUp):
        without_loop(commits.submit(2))
    assert disk.committed == [1, 2]
    other.join()


@pytest.mark.real_time
async def test_callers_of_all_kinds_share_a_commit(disk: Disk) -> None:
    """Threads with an asyncio loop, with a trio loop and without a loop share the commit of this loop's callers."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}

    def call(number: int) -> None:
        match number % 3:
            case 0:
                without_loop(submit(commits, number, results))
            case 1:
                anyio.run(submit, commits, number, results)
            case _:
                anyio.run(submit, commits, number, results, backend="trio")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(submit, commits, 0, results)
        await anyio.to_thread.run_sync(disk.begun.wait)
        threads = [threading.Thread(target=call, args=[number]) for number in range(1, 16)]
        for thread in threads:
            thread.start()
        tasks.start_soon(submit, commits, 16, results)
        await until(lambda: len(commits._waiting) == 16)
        disk.open.set()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
    assert results == {number: 2 * number for number in range(17)}
    assert len(disk.batches) == 2


@pytest.mark.real_time
def test_a_loop_that_is_gone_takes_nobody_with_it(disk: Disk) -> None:
    """A caller whose loop is closed while it waits does not stop the others, and its item is committed or not."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(submit(commits, 1, results))
    loop.run_until_complete(asyncio.sleep(0))
    assert disk.begun.wait(60)
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    disk.open.set()
    assert without_loop(commits.submit(2)) == 4
    abandoned.get_coro().close()
    assert sorted(number for batch in disk.batches for number in batch) == [1, 2]


@pytest.mark.may_block
async def test_without_a_thread_the_caller_commits(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had, a caller commits in its own thread, and the next tries to have a thread again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    disk.open.set()
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert await commits.submit(1) == 2
        assert commits._thread is None
    assert await commits.submit(2) == 4
    assert commits._thread is not None


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_the_thread_ends_with_its_owner(disk: Disk) -> None:
    """A group commit that is not needed any more goes, and its thread with it."""
    disk.open.set()
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    await commits.submit(1)
    thread = commits._thread
    assert thread is not None
    del commits
    gc.collect()
    await anyio.to_thread.run_sync(thread.join, 60)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_none_of_the_callers(disk: Disk) -> None:
    """A child that is forked in the midst of another thread's commit commits for its own callers alone."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    threads = [threading.Thread(target=without_loop, args=[commits.submit(number)]) for number in (1, 2)]
    for thread in threads:
        thread.start()
    assert disk.begun.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(60)
        disk.open.set()
        without_loop(commits.submit(3))
        os._exit(disk.batches != [[1], [3]])
    disk.open.set()
    for thread in threads:
        thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(disk.committed) == [1, 2]


def test_a_commit_that_calls_itself_is_refused() -> None:
    """A caller in the thread that commits, such as a handler of the commit's own log line, gets an error."""
    refused: list[str] = []

    def commit(batch: Iterable[int]) -> list[int]:
        try:
            without_loop(commits.submit(2))
        except AuditStorageError as error:
            refused.append(str(error))
        return list(batch)

    commits: GroupCommit[int, int] = GroupCommit(commit, interrupted=AuditStorageError("stored or not"))
    assert without_loop(commits.submit(1)) == 1
    assert refused == ["not committed: called from within a commit of the same thread"]


def test_whoever_interrupts_a_caller_is_answered() -> None:
    """A signal handler or a destructor that commits amid a commit of its thread has a result, or is refused; always."""
    commits: GroupCommit[int, int] = GroupCommit(list, interrupted=AuditStorageError("stored or not"))
    refusals, line = 0, 0
    while True:
        line += 1
        answers: list[object] = []

        def interrupt(answers: list[object] = answers) -> None:
            try:
                answers.append(without_loop(commits.submit(2)))
            except AuditStorageError as error:
                answers.append(str(error))

        with interrupted_at(line, Path(groupcommit.__file__), interrupt):
            assert without_loop(commits.submit(1)) == 1
        if not answers:
            break  # there are not so many lines
        refusals += answers != [2]
        assert answers in ([2], ["not committed: called from within a commit of the same thread"])
    assert 0 < refusals < line - 10


EXITING = """
import asyncio, sys, threading, time
from fapilog.tasks.groupcommit import GroupCommit

begun = threading.Event()

def commit(items):
    begun.set()
    time.sleep(0.3)
    print("committed", flush=True)
    return items

async def main():
    commits = GroupCommit(commit, interrupted=ValueError())
    task = asyncio.create_task(commits.submit(1))
    await asyncio.to_thread(begun.wait)
    sys.exit(3)

asyncio.run(main())
"""


@pytest.mark.slow
def test_the_exit_of_the_interpreter_waits_for_a_commit() -> None:
    """A commit that has begun is finished before the process is gone: finalizers close the files that it writes to."""
    ended = subprocess.run([sys.executable, "-c", EXITING], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "committed\n", "")
