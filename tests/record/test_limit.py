"""Questions to objects of others that are never answered."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any

import pytest

from fapilog import AuditEvent, AuditTrail, MemoryStorage
from fapilog.integrations.logging import AuditHandler
from fapilog.record import limit, values
from fapilog.record.freezing import frozen_mapping
from fapilog.record.intake import recorded
from fapilog.record.kinds import AuditEventType, AuditLogLevel, member
from fapilog.record.limit import TookTooLongError, within_limit
from fapilog.record.values import given_tags, given_text

CALLS = ["__eq__", "__hash__", "__repr__", "__getattribute__", "__bool__", "__len__", "__iter__", "__str__", "__dir__"]
OF_CLASSES = ["__instancecheck__", "__subclasscheck__", "__or__", "__ror__"]
BASES: list[tuple[type, Any]] = [
    (object, None),
    *((str, "é"), (bytes, b"a"), (int, 7), (float, 0.5), (list, ["a"]), (dict, {"id": 1}), (tuple, (1,)), (set, {1})),
    *(
        (Decimal, "1.5"),
        (datetime, (2026, 3, 1, 0, 0, 0, 0, UTC)),
        (ValueError, "x"),
        (ExceptionGroup, ("x", [OSError()])),
    ),
    *((OrderedDict, {"type": 1}), (Exception, "x")),
]


def spied(base: type, outside: list[str]) -> type:
    """Return a class like *base* that notes which of its methods, and its metaclass', are called outside the border."""

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: object, *more: Any) -> Any:
            if threading.get_ident() not in limit._open:
                outside.append(name)
            return real(self, *more)

        return call

    of_class = {name: noting(f"metaclass {name}", getattr(type, name, bool)) for name in [*CALLS, *OF_CLASSES]}
    members = {name: noting(name, getattr(base, name)) for name in CALLS if hasattr(base, name)}
    lies = {"__class__": property(noting("__class__", type)), "__bool__": noting("__bool__", lambda _: True)}
    spying: Callable[..., type] = type("Spying", (type,), of_class)
    return spying("Spied", (base,), members | lies)


@pytest.mark.parametrize(("base", "given"), BASES, ids=lambda each: each.__name__ if isinstance(each, type) else "")
def test_nothing_is_asked_without_a_limit(base: type, given: Any) -> None:
    """No method of a class of others, or of its metaclass, is called but by a question, whatever is recorded."""
    outside: list[str] = []
    kind = spied(base, outside)
    several = type(given) is tuple and base is not tuple
    value = kind() if given is None else kind(*given) if several else kind(given)
    outside.clear()
    names = ["message", "reason", "user_id", "actor", "target", "changes", "metadata", "regulatory_tags", "strange"]
    checked = ["log_level", "outcome", "occurred", "contains_pii", "event_id"]
    found = [*[{name: value} for name in [*names, "error"]], {"metadata": {"a": value, "b": [value, kind]}}]
    for fields in [*found, *[{name: value} for name in checked]]:
        known = {"event_type": AuditEventType.DATA_ACCESS, "message": "", "log_level": AuditLogLevel.INFO}
        known |= {"message": value} if "message" in fields else {}
        with suppress(TypeError, ValueError):
            recorded(known, fields, limits=(8_192, 65_536, 262_144))
        if "strange" not in fields and "error" not in fields:
            with suppress(TypeError, ValueError):
                AuditEvent(**known | fields)
    with suppress(ValueError):
        member(AuditEventType, value, "event_type")
    assert not outside


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a question take a twentieth of a second; the thread that looks has ended before, and ends after."""
    _join_watcher()
    monkeypatch.setattr(limit, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(limit, "_LOOKS", 5)
    monkeypatch.setattr(limit, "_IDLE_LOOKS", 3)
    yield
    _join_watcher()
    assert not limit._open


def _join_watcher() -> None:
    watcher = limit._watcher
    if watcher is not None:
        watcher.join()


class Endless:
    """An object whose every answer is a loop without end, which swallows what it can."""

    def __repr__(self) -> str:
        while True:
            try:
                while True:
                    pass
            except Exception:  # noqa: S110
                pass

    def __iter__(self) -> Iterator[str]:
        yield "a"
        while True:
            pass

    @property
    def name(self) -> str:
        return repr(self)


def test_a_repr_that_never_ends_is_left() -> None:
    """An object whose repr never returns is stored as unreadable, and the values beside it as they are."""
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", metadata={"a": Endless(), "b": 1})
    assert event.metadata == {"a": "<Endless, unreadable: TookTooLongError>", "b": 1}


def test_a_thousand_of_them_take_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first answer that does not come no more questions are asked for a moment."""
    monkeypatch.setattr(limit, "_LOOK_EVERY", 0.1)
    monkeypatch.setattr(limit, "_LOOKS", 1)
    asked = []

    def endless(number: int) -> None:
        asked.append(number)
        while True:
            pass

    for number in range(1000):
        with pytest.raises(TookTooLongError):
            within_limit(endless, number)
    assert len(asked) < 20


def test_a_thread_that_was_late_is_asked_again_later() -> None:
    """One answer that did not come keeps no later question about its class from being asked in its thread."""

    def endless(_: int) -> None:
        while True:
            pass

    with pytest.raises(TookTooLongError):
        within_limit(endless, 1)
    _join_watcher()
    assert within_limit(str, 2) == "2"


def test_values_of_other_classes_are_read_meanwhile() -> None:
    """An answer that did not come takes nothing from other values, in its event and in the next ones of its thread."""
    first = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", metadata={"a": Endless(), "b": (1, 2)})
    second = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", metadata=OrderedDict(c=1))
    assert (first.metadata["b"], second.metadata, given_text(1.5)) == ([1, 2], {"c": 1}, "1.5")


def test_values_without_code_of_others_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuples, sets and whole numbers are read without a limit, whose cost is that of reading them again."""
    asked: list[type] = []

    def spy(question: Callable[..., Any], value: object, *more: object) -> Any:
        asked.append(type(value))
        return within_limit(question, value, *more)

    monkeypatch.setattr(values, "within_limit", spy)
    given = {"a": (1, 2), "b": {3}, "c": frozenset({4}), "d": {5: 6}}
    assert frozen_mapping(given) == {"a": [1, 2], "b": [3], "c": [4], "d": {"5": 6}}
    assert asked == [dict]


def test_a_value_is_not_kept() -> None:
    """No value lives longer since it was asked, be it until the next collection of garbage."""
    value = Endless()
    asked = weakref.ref(value)
    gc.disable()
    try:
        given_text(value)
        del value
        _join_watcher()
        is_gone = asked() is None
        assert is_gone
    finally:
        gc.enable()


def test_tags_and_texts_that_never_end_are_left() -> None:
    """Tags and texts are bounded like the metadata."""
    assert given_tags(Endless()) == ["<Endless, unreadable: TookTooLongError>"]
    _join_watcher()
    assert given_text(Endless()) == "<Endless, unreadable: TookTooLongError>"


class EndlessZone(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(len(repr(Endless())))

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return repr(Endless())


class EndlessTruth:
    __bool__ = Endless.__repr__


class EndlessHash:
    __hash__ = Endless.__repr__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "hash"


@pytest.mark.parametrize("value", [datetime(2026, 3, 1, tzinfo=EndlessZone()), time(1, tzinfo=EndlessZone())])
def test_a_time_zone_that_never_answers_is_left(value: object) -> None:
    """A time whose zone never says its offset is stored as unreadable."""
    name = type(value).__name__
    assert frozen_mapping({"a": value}) == {"a": f"<{name}, unreadable: TookTooLongError>"}


@pytest.mark.parametrize(
    "given",
    [
        {"occurred": datetime(2026, 3, 1, tzinfo=EndlessZone())},
        {"contains_pii": EndlessTruth()},
        {"log_level": EndlessHash()},
        {"outcome": EndlessHash()},
    ],
    ids=lambda given: next(iter(given)),
)
def test_members_that_never_end_are_refused(given: dict[str, Any]) -> None:
    """A time, a flag or a level whose code never returns is refused like any other that is none."""
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(given))}: expected "):
        AuditTrail(storage=MemoryStorage()).sync.log_event(AuditEventType.DATA_ACCESS, "m", **given)


def test_an_argument_of_a_line_that_never_ends_is_left() -> None:
    """A line of the log whose argument never becomes text is stored with its format."""
    trail = AuditTrail(storage=MemoryStorage())
    handler = AuditHandler(trail, level="info")
    handler.emit(logging.LogRecord("app", logging.ERROR, "", 1, "user %s", (Endless(),), None))
    handler.close()
    assert [event.message for event in trail.sync.get_events()] == ["user %s"]


def test_a_question_within_a_question_has_no_limit_of_its_own() -> None:
    """An answer that asks further is bounded as a whole, however often it asks."""

    def endless(_: object) -> None:
        while True:
            within_limit(str, 1)

    with pytest.raises(TookTooLongError):
        within_limit(endless, None)


@pytest.mark.slow
def test_nothing_is_raised_after_an_answer_that_came_late() -> None:
    """An exception that was set as the answer came is raised with the answer, or not at all."""

    def slow(_: object) -> int:
        while not limit._late:
            pass
        return 1

    for _ in range(5):
        with suppress(TookTooLongError):
            assert within_limit(slow, None) == 1
        # It would be raised in here.
        _join_watcher()


@pytest.mark.slow
def test_answers_of_many_threads_are_bounded_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that never answers does not disturb the questions of another."""
    # The loops without end take the interpreter from the other threads for a while.
    monkeypatch.setattr(limit, "_LOOKS", 100)
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        texts[number] = given_text(Endless() if number % 2 else float(number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    late = "<Endless, unreadable: TookTooLongError>"
    assert texts == {number: late if number % 2 else str(float(number)) for number in range(4)}


def test_a_signal_that_leaves_a_question_leaves_nothing_behind() -> None:
    """An exit in the midst of an answer is raised, and the question is closed."""

    class Exiting:
        def __str__(self) -> str:
            signal.raise_signal(signal.SIGINT)
            return "never"

    with pytest.raises(KeyboardInterrupt):
        given_text(Exiting())
    assert not limit._open


def test_a_child_has_limits_too() -> None:
    """A child that is forked while the thread looks has one of its own."""
    given_text(Endless())
    child = os.fork()
    if not child:
        os._exit(0 if given_text(Endless()) == "<Endless, unreadable: TookTooLongError>" else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_answer_that_forks_has_limits_in_the_child() -> None:
    """A child that is forked in the midst of an answer has limits for the questions that it asks there."""

    class Forking:
        def __str__(self) -> str:
            child = os.fork()
            if not child:
                signal.alarm(10)
                os._exit(0 if given_text(Endless()) == "<Endless, unreadable: TookTooLongError>" else 1)
            children.append(child)
            return ""

    children: list[int] = []
    given_text(Forking())
    assert os.waitpid(children[0], 0)[1] == 0


def test_without_ctypes_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python was built without ctypes, a late answer is taken, and so are the later ones of its thread."""
    monkeypatch.setitem(sys.modules, "ctypes", None)

    class Slow:
        def __str__(self) -> str:
            while not limit._late:
                pass
            return "done"

    assert given_text(Slow()) == "done"
    _join_watcher()
    assert given_text(Slow()) == "done"


def test_without_a_thread_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had, questions are asked all the same."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert given_text(1.5) == "1.5"
    assert limit._watcher is None


def test_a_late_answer_leaves_nothing_for_other_threads_to_look_for() -> None:
    """After an answer that came late, or not at all, a debugger or a measurement of coverage works as before."""
    program = """
import sys
from fapilog.record import limit
from fapilog.record.values import given_text

limit._LOOK_EVERY, limit._LOOKS = 0.01, 2

class Endless:
    def __str__(self):
        while True:
            pass

assert "TookTooLongError" in given_text(Endless())
sys.settrace(lambda *_: None)
assert sorted([2, 1], key=lambda number: number) == [1, 2]
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 0
