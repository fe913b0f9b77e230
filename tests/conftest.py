"""Every async test runs on asyncio and on trio, with a clock that jumps, and may not block the event loop."""

import gc
import itertools
import logging
import random
import signal
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from blockbuster import BlockBuster, BlockBusterFunction
from hypothesis import settings

from tests.clock import jumping_backend, real_backend, stop_clock_in_threads
from tests.doubles.origin import Origin
from tests.doubles.postgres import Server, fleet

# Calls to the disk that blockbuster does not know of by itself.
_DISK = ("os.open", "os.fsync", "os.fdatasync", "os.ftruncate", "os.pread", "os.pwrite", "fcntl.flock", "fcntl.lockf")

# Functions in which fapilog may block the loop, by the end of their file's path; each with its reason.
MAY_BLOCK: dict[str, set[str]] = {
    # What a handler of the application does is the application's choice.
    "logging/__init__.py": {"callHandlers"},
    # Of the tests themselves, now and then.
    "coverage/collector.py": {"lock_data"},
    # With durability="write" the page cache takes the record in microseconds; a thread would take a hundred.
    # To make a path absolute asks the kernel, and no disk, for the current directory.
    "fapilog/storage/_files/writer.py": {"append_at_once"},
    "fapilog/storage/files.py": {"__init__"},
    "fapilog/core/_incidentfiles.py": {"__init__"},
}

# `--hypothesis-profile full` is for `make torture`. On a busy machine an example takes as long as
# it takes, so neither profile has a deadline.
settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile("full", deadline=None, max_examples=300)
settings.load_profile("quick")

# A shell ignores SIGINT for a command in the background, and so would the tests about it, and the children they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The files that take longest, by the clock: they begin first, so that all workers end at about the same time.
LONGEST = (
    "test_outbox_places.py",
    "test_outbox_postgres.py",
    "test_docs.py",
    "test_what_leaves.py",
    "test_processes.py",
    "test_outbox_faults.py",
    "test_interrupted.py",
    "test_outbox.py",
    "test_postgres.py",
    "test_config_fleet.py",
    "test_archived.py",
    "test_postgres_copying.py",
    "test_servers.py",
    "test_cli_alerts.py",
    "test_cli.py",
    "test_celery.py",
    "test_s3.py",
    "test_alertmanager.py",
    "test_limit.py",
    "test_holes.py",
    "test_retention.py",
    "test_incidentfiles.py",
    "test_health.py",
    "write-a-provider.md",
    "test_outbox_spoiled.py",
    "test_border.py",
    "test_callers.py",
    "test_smtp.py",
    "test_http.py",
    "test_cancellation.py",
    "test_exits.py",
    "test_files.py",
    "test_intake.py",
    "test_audit.py",
    "test_catchup.py",
    "test_structure.py",
    "test_sync.py",
    "test_failing_calls.py",
    "test_outbox_model.py",
    "test_pytest_plugin.py",
    "test_django_servers.py",
    "test_contract.py",
    "test_uvicorn.py",
    "test_bounds.py",
    "test_django_admin.py",
    "test_annotations.py",
    "test_testing.py",
)


def _share_values(items: list[pytest.Item]) -> None:
    """Of the values of a test, draw half for each backend: its ``first_half``; what is left is its ``other_half``."""
    tests: dict[str, dict[object, list[pytest.Function]]] = {}
    for item in items:
        if not isinstance(item, pytest.Function) or "anyio_backend" not in item.fixturenames:
            continue
        if not {"slow", "slow_on_trio", "torture"}.intersection(mark.name for mark in item.iter_markers()):
            value = tuple(id(each) for name, each in item.callspec.params.items() if name != "anyio_backend")
            tests.setdefault(item.nodeid.partition("[")[0], {}).setdefault(value, []).append(item)
    for test, values in tests.items():
        on_both = [both for both in values.values() if len(both) > 1]
        if len(values) > 1:
            # The same each time; and not in turn: then one backend would have all that write, the other all that sync.
            random.Random(test).shuffle(on_both)  # noqa: S311
            for number, both in enumerate(on_both):
                both[number % 2].add_marker(pytest.mark.other_half)
                both[1 - number % 2].add_marker(pytest.mark.first_half)


@pytest.hookimpl(tryfirst=True)  # before pytest looks for marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and share the values out between the backends."""
    _share_values(items)
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection() -> None:
    """Collect tests without the garbage collector, which would walk them all again and again, and find nothing."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep the collected tests away from the garbage collector."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest looks for marks of this kind
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on asyncio alone if it is marked ``one_backend``; ``slow_on_trio`` makes that its first half."""
    backends: list[Any] = []
    if metafunc.definition.get_closest_marker("one_backend"):
        backends = ["asyncio"]
    elif metafunc.definition.get_closest_marker("slow_on_trio"):
        halves = (pytest.mark.first_half, pytest.mark.other_half)
        backends = [pytest.param(name, marks=half) for name, half in zip(("asyncio", "trio"), halves, strict=True)]
    if backends:
        metafunc.definition.add_marker(pytest.mark.parametrize("anyio_backend", backends, indirect=True))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run the test on both backends; time jumps unless the test is marked ``real_time``."""
    name: str = request.param
    if request.node.get_closest_marker("real_time"):
        return real_backend(name)
    stop_clock_in_threads(monkeypatch)
    return jumping_backend(name)


@pytest.fixture(scope="session", autouse=True)
def _one_command_line() -> Iterator[None]:
    """Make the commands of the command line once: Typer makes them anew for each run, which takes 30 ms."""
    try:
        import typer.main  # noqa: PLC0415  an extra
    except ImportError:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_group", cache(typer.main.get_group))
        yield


@pytest.fixture(scope="session")
def database() -> Iterator[Server]:
    """
    Run a PostgreSQL server with the tables, and with the roles of a service, a writer without alerts, and an auditor.

    It need not survive a power cut. All tests share it, so each has a trail of its own: see `name`. One that stops the
    server starts it again.
    """
    pytest.importorskip("psycopg")
    with fleet() as started:
        yield started


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of a trail of the test's own in the database."""
    return f"{request.node.path.stem} {request.node.name}"


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Run a scripted server on the loopback."""
    with Origin() as server:
        yield server


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    """Put logging back as it was: frameworks under test set it up for the whole process, as Litestar does."""
    root, ours = logging.getLogger(), logging.getLogger("fapilog")
    handlers = list(root.handlers)
    levels, disabled = (root.level, ours.level), ours.disabled
    yield
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    ours.disabled = disabled
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def _blockbuster() -> BlockBuster:
    watch = BlockBuster("fapilog")
    for name in _DISK:
        watch.functions[name] = BlockBusterFunction(None, name, scanned_modules="fapilog")
    for function in watch.functions.values():
        for file, names in MAY_BLOCK.items():
            function.can_block_in(file, names)
    return watch


@pytest.fixture(autouse=True)
def _nothing_blocks(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _blockbuster: BlockBuster
) -> Iterator[None]:
    """Fail the test where fapilog blocks asyncio's loop; blockbuster can't see trio's."""
    node = request.node
    jumps = "anyio_backend" in request.fixturenames and request.getfixturevalue("anyio_backend_name") == "asyncio"
    if not jumps or node.get_closest_marker("real_time") or node.get_closest_marker("may_block"):
        yield
        return
    _blockbuster.activate()
    try:
        yield
    finally:
        # A test may have patched a call that blockbuster watches: taken back later, the watched one would stay.
        monkeypatch.undo()
        _blockbuster.deactivate()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the torture tests."""
    group = parser.getgroup("torture")
    group.addoption("--torture-seconds", type=float, default=60.0, help="how long each torture test goes on")
    group.addoption("--torture-round", type=int, default=0, help="the first round, to repeat one that failed")


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Iterator[int]:
    """Count rounds until `--torture-seconds` are over, at least one; seed what is random with the number."""
    option = request.config.option
    end = time.monotonic() + option.torture_seconds

    def count() -> Iterator[int]:
        for number in itertools.count(option.torture_round):
            print(f"round {number}")  # noqa: T201  shown when the test fails, for --torture-round
            yield number
            if time.monotonic() >= end:
                return

    return count()
