"""Group commit: shared by all that wait, and not disturbed by those that leave."""

import asyncio
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from fapilog import AuditStorageError
from fapilog.tasks.groupcommit import GroupCommit


class Disk:
    """Commits numbers by doubling them, as soon as the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.begun = threading.Event()

    def commit(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        self.begun.set()
        assert self.open.wait(10)
        if -1 in batch:
            raise AuditStorageError("disk full")
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
    assert not commits.busy


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
            assert not commits.busy


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cancelling_every_task_leaves_nobody_in_doubt(disk: Disk) -> None:
    """When the loop ends and cancels each task, the commit's own too, its callers are told that they can't know."""
    commits = GroupCommit(disk.commit, interrupted=InterruptedError())
    results: dict[int, object] = {}
    others = asyncio.all_tasks()
    task = asyncio.ensure_future(submit(commits, 0, results))
    await until(disk.begun.is_set)
    other = asyncio.ensure_future(submit(commits, 1, results))
    await until(lambda: len(commits._waiting) == 1)
    for each in asyncio.all_tasks() - others - {other}:
        each.cancel()
    disk.open.set()
    await asyncio.wait([task, other])
    assert task.cancelled()
    assert results == {1: 2}
