"""Alerting processes are killed with SIGKILL wherever they happen to be: each alert whose event is stored arrives."""

import random
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fapilog.delivery.outbox._file.place import OutboxFile
from fapilog.delivery.outbox._place import Place, Queue
from fapilog.testing import Answer, Origin, Request
from tests.doubles.postgres import Server, binaries, server
from tests.doubles.trail_writers import Writer, alerter, listen

KILLINGS = 5

ANSWERS = [
    *[Answer(200)] * 12,
    *[Answer(202)] * 2,
    *[Answer(500)] * 2,
    Answer(429, headers={"retry-after": "0.05"}),
    Answer(fault="reset_before_answering"),
    Answer(fault="close_before_answering"),
    Answer(fault="hang_before_answering"),
]


class _Requests(list[Request]):
    """Knows which request each thread has read last."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.local()

    def append(self, request: Request) -> None:
        self.here.last = request
        super().append(request)


class Moody(Origin):
    """Answers at random, and notes which alerts it has certainly taken."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.requests = self._requests = _Requests()
        self._chance = chance
        self.is_well = False
        self.taken: Counter[str] = Counter()

    def _next(self) -> Answer:
        answer = Answer(200) if self.is_well else self._chance.choice(ANSWERS)
        if not answer.fault and answer.status < 300:
            self.taken[event_of(self._requests.here.last)] += 1
        return answer


def event_of(request: Request) -> str:
    event_id: str = request.json()["data"]["event_id"]
    return event_id


def check(place: Place, origin: Moody, stored: set[str], *, was_away: bool = False) -> None:
    """
    Everything stored has arrived, always with one key, and twice only after an attempt that nobody knows about.

    Where the place *was_away*, also after one whose lease was over before its outcome could be noted.
    """
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for request in origin.requests:
        keys[event_of(request)].add(request.headers["webhook-id"])
    assert not stored - origin.taken.keys()
    assert {len(each) for each in keys.values()} == {1}
    assert len({key for each in keys.values() for key in each}) == len(keys)
    twice = [event_id for event_id, count in origin.taken.items() if count > 1]

    def attempts(queue: Queue) -> dict[str, list[str | None]]:
        found = {event_id: queue.attempts("alerts", event_id) for event_id in twice}
        return {event_id: [each.outcome for each in attempts] for event_id, attempts in found.items()}

    [outcomes] = place.run([attempts])
    place.close()
    for event_id, found in outcomes.items():
        unknown = sum(outcome in {"ambiguous", "stopped"} for outcome in found)
        most = unknown + (found.count("dispatched") if was_away else 1)
        assert origin.taken[event_id] <= most, (event_id, found)


def run_round(
    where: Path | str, place: Place, backend: str, *, processes: int, number: int, server: Server | None = None
) -> None:
    """
    Let some alert; kill one, start another, and so on; then let all come to their end, and the outbox be emptied.

    With a *server*, that is killed too, now and then, and started again.
    """
    chance = random.Random(number)  # noqa: S311
    everyone: list[Writer] = []
    with ExitStack() as stack, Moody(chance) as origin:
        alive: list[Writer] = []
        for _ in range(KILLINGS):
            while len(alive) < processes:
                started = stack.enter_context(alerter(where, backend, origin.base_url, "log"))
                alive.append(started)
                everyone.append(started)
            before = {each: len(each.stored) for each in alive}
            listen(alive, lambda: all(len(each.stored) > before[each] for each in alive))  # noqa: B023
            victim = chance.choice(alive)
            enough = len(victim.stored) + chance.randrange(60)
            listen(alive, lambda: len(victim.stored) >= enough)  # noqa: B023
            victim.kill()
            alive.remove(victim)
            if server is not None and chance.random() < 0.5:
                server.kill()
                server.start()
        for each in alive:
            each.stop()
        origin.is_well = True
        last = stack.enter_context(alerter(where, backend, origin.base_url, "drain"))
        assert last.process.wait() == 0
        check(place, origin, {event_id for each in everyone for event_id in each.stored}, was_away=server is not None)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("processes", [1, 4])
def test_killed_alerters_lose_nothing(tmp_path: Path, backend: str, processes: int, rounds: Iterator[int]) -> None:
    """Each alert whose event was stored arrives, with one key, twice only if nobody knows about an attempt."""
    for number in rounds:
        directory = tmp_path / str(number)
        directory.mkdir()
        run_round(directory, OutboxFile(directory / "alerts.db"), backend, processes=processes, number=number)
        shutil.rmtree(directory)


@pytest.mark.parametrize("programs", binaries(), ids=lambda path: path.parent.name)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kills_server", [False, True])
def test_killed_alerters_lose_nothing_in_a_database(
    programs: Path, backend: str, rounds: Iterator[int], *, kills_server: bool
) -> None:
    """The same of processes that share an outbox in PostgreSQL, whose server may be killed as well."""
    psycopg = pytest.importorskip("psycopg")
    postgres = pytest.importorskip("fapilog.storage.postgres")
    pgplace = pytest.importorskip("fapilog.delivery.outbox._postgres.place")
    with server(programs) as started:
        for number in rounds:
            with psycopg.connect(started.dsn(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE round{number}")
            dsn = started.dsn(f"round{number}")
            postgres.install_schema(dsn)
            place = pgplace.Database(postgres.PostgresStorage(dsn, "written"))
            run_round(dsn, place, backend, processes=4, number=number, server=started if kills_server else None)
