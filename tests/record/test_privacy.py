"""Exceptions that come without the local variables of the functions that raised them."""

import traceback
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from fapilog import AuditStorageError
from fapilog.record.privacy import without_frames

CANARY = "JOHN-Q-PATIENT"


def locals_shown(error: BaseException) -> str:
    """Return what a crash reporter may print of *error* and of all that is behind it."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def frames(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


async def caught(function: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as info:  # noqa: PT011 - of any kind
        await without_frames(function)()
    return info.value


async def test_the_frames_of_the_caller_are_left() -> None:
    """An exception is raised as it is, with the place of the call and nothing below it."""
    error = AuditStorageError("no space")

    async def store(whole: str = CANARY) -> None:
        raise error

    assert await caught(store) is error
    assert frames(error) == ["caught"]
    assert CANARY not in locals_shown(error)


async def test_what_is_behind_has_no_frames() -> None:
    """Causes, contexts and the members of groups are kept, without frames, and say where they came from."""

    async def store(whole: str = CANARY) -> None:
        try:
            try:
                raise KeyError("key")
            finally:
                raise ExceptionGroup("two", [OSError("disk"), ValueError("value")])
        except ExceptionGroup as group:
            raise AuditStorageError("not stored") from group

    error = await caught(store)
    group = error.__cause__
    assert isinstance(group, ExceptionGroup)
    assert isinstance(group.__context__, KeyError)
    assert frames(group) == frames(group.__context__) == []
    assert CANARY not in locals_shown(error)
    assert "raised in test_privacy.py, line" in locals_shown(error)
    assert not hasattr(error, "__notes__")


async def test_what_the_caller_was_handling_is_its_own() -> None:
    """The exception that a caller handles meanwhile keeps its frames."""

    async def store() -> None:
        raise AuditStorageError("not stored")

    try:
        raise ValueError("the caller's")
    except ValueError:
        error = await caught(store)
    own = error.__context__
    assert isinstance(own, ValueError)
    assert frames(own) == ["test_what_the_caller_was_handling_is_its_own"]
    assert not hasattr(own, "__notes__")


async def test_a_cancellation_passes_without_frames() -> None:
    """A cancellation ends the function as ever, and has no frames that a `TimeoutError` could show."""
    seen: list[tuple[list[str], bool]] = []

    async def wait(whole: str = CANARY) -> None:
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await without_frames(wait)()
        except BaseException as error:
            seen.append((frames(error), hasattr(error, "__notes__")))
            raise
    assert seen == [(["test_a_cancellation_passes_without_frames"], False)]
    assert scope.cancelled_caught


def test_a_plain_function_is_no_different() -> None:
    """A function that is not asynchronous raises without its frames too."""

    @without_frames
    def check(whole: str) -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused") as info:
        check(CANARY)
    assert frames(info.value) == ["test_a_plain_function_is_no_different"]
    assert info.value.__notes__[0].startswith("raised in test_privacy.py, line ")


async def test_what_is_returned_and_named_stays() -> None:
    """The function keeps its name, its docstring and its result."""

    async def store() -> int:
        """Store."""
        return 1

    assert await without_frames(store)() == 1
    assert (without_frames(store).__name__, without_frames(store).__doc__) == ("store", "Store.")
